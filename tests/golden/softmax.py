"""Softmax attention, from arXiv 1706.03762: one query and head at a time."""
from case import main
from softmax_family import attention, merged, placed, projected, visible


def layer(case, b):
    x = case.input("x")[b]
    q, k = (placed(case, name, projected(case, x, name)) for name in ("query", "key"))
    heads = attention(q, k, projected(case, x, "value"), lambda t, g: visible(case, t))
    return {"y": merged(case, heads)}


if __name__ == "__main__":
    main(layer)
