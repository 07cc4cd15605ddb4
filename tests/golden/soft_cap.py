"""Softmax attention with bounded scores, from arXiv 2408.00118, section 2."""
from case import main
from derivative import tanh
from softmax_family import attention, merged, placed, projected, softmax, visible


def layer(case, b):
    x, cap = case.input("x")[b], case.config["cap"]
    q, k = (placed(case, name, projected(case, x, name)) for name in ("query", "key"))
    heads = attention(q, k, projected(case, x, "value"), lambda t, g: visible(case, t),
                      lambda t, h, scores: softmax([cap * tanh(s / cap) for s in scores]))
    return {"y": merged(case, heads)}


if __name__ == "__main__":
    main(layer)
