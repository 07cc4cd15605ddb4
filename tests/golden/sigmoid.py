"""Sigmoid attention, from arXiv 2409.04431, section 2: every key is weighed by itself."""
import math
import struct

from case import main, sigmoid
from softmax_family import attention, merged, placed, projected, visible


def rounded(x):
    """To float32, the precision of the bias."""
    return struct.unpack("f", struct.pack("f", x))[0]


def layer(case, b):
    x, bias = case.input("x")[b], rounded(-math.log(case.config["context_length"]))
    q, k = (placed(case, name, projected(case, x, name)) for name in ("query", "key"))
    heads = attention(q, k, projected(case, x, "value"), lambda t, g: visible(case, t),
                      lambda t, h, scores: [sigmoid(s + bias) for s in scores])
    return {"y": merged(case, heads)}


if __name__ == "__main__":
    main(layer)
