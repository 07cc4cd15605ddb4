"""Dynamic mask attention, from arXiv 2508.02124: the keys whose values score best, biased by their scores."""
import math

from case import flat, main, rows_times
from softmax_family import attention, merged, placed, projected, softmax


def layer(case, b):
    c = case.config
    x = case.input("x")[b]
    G, W = c["num_heads"] // c["num_kv_heads"], c["top_w"]
    q, k = (placed(case, name, projected(case, x, name)) for name in ("query", "key"))
    v = projected(case, x, "value")
    bias = case.param("dt.bias") if c["score_bias"] else [0.0] * c["num_kv_heads"]
    score = [[a * math.log1p(math.exp(u + s)) for a, u, s in zip(case.param("A"), row, bias)]
             for row in rows_times([flat(heads) for heads in v], case.param("dt.weight"))]
    delta = [[math.exp(a) if c["bias_mode"] == "exp" else a for a in row] for row in score]

    def kept(t, g):  # of equal scores the newest key
        return sorted(range(t + 1), key=lambda j: (score[j][g], j))[-W:]

    def weigh(t, h, scores):
        return softmax([s + delta[j][h // G] for s, j in zip(scores, kept(t, h // G))])

    return {"y": merged(case, attention(q, k, v, kept, weigh))}


if __name__ == "__main__":
    main(layer)
