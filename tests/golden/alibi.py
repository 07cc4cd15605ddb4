"""Attention with learned linear biases, from arXiv 2108.12409, section 3: a score falls with the distance of its key."""
from case import main, to_float32
from softmax_family import attention, merged, placed, projected, softmax, visible


def parameters(config, model_dim):
    return {"slopes": (config["num_heads"], 1)}


def layer(case, b):
    x, H = case.input("x")[b], case.config["num_heads"]
    slopes = [to_float32(2 ** (-8 / H)) * row[0] for row in case.param("slopes")]
    q, k = (placed(case, name, projected(case, x, name)) for name in ("query", "key"))

    def weigh(t, h, scores):
        return softmax([s - slopes[h] * (t - j) for s, j in zip(scores, visible(case, t))])

    return {"y": merged(case, attention(q, k, projected(case, x, "value"), lambda t, g: visible(case, t), weigh))}


if __name__ == "__main__":
    main(layer)
