"""Sigmoid attention, from arXiv 2409.04431, section 2: every key is weighed by itself."""
import math

from case import main, sigmoid, to_float32
from softmax_family import attention, merged, placed, projected, visible


def layer(case, b):
    x, bias = case.input("x")[b], to_float32(-math.log(case.config["context_length"]))
    q, k = (placed(case, name, projected(case, x, name)) for name in ("query", "key"))
    heads = attention(q, k, projected(case, x, "value"), lambda t, g: visible(case, t),
                      lambda t, h, scores: [sigmoid(s + bias) for s in scores])
    return {"y": merged(case, heads)}


if __name__ == "__main__":
    main(layer)
