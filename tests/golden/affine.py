"""Affine-scaled attention, from arXiv 2602.23057: every weight of a row scaled and shifted."""
import math

from case import main, rows_times, sigmoid
from gated import gated
from softmax_family import attention, merged, placed, projected, softmax, visible


def scales(case, x):
    """alpha of every token and head."""
    c = case.config
    bias = case.param("affine.bias") if c["affine_bias"] else [0.0] * c["num_heads"]
    act = {"sigmoid": sigmoid, "lin_clip": lambda a: min(1.0, max(0.0, 0.1 * a + 0.5))}[c["affine_act"]]
    return [[act(a + s) for a, s in zip(row, bias)] for row in rows_times(x, case.param("affine.weight"))]


def layer(case, b):
    c = case.config
    x = case.input("x")[b]
    alpha, mean = scales(case, x), case.tensors["buffer/running_mean"]

    def weigh(t, h, scores):
        size = {"fixed": c["affine_n_fixed"], "visible": len(scores), "seqlen": len(x)}[c["affine_n_mode"]]
        beta = (mean[h] - alpha[t][h]) / size if c["affine_beta"] else 0.0
        return [alpha[t][h] * p + beta for p in softmax(scores)]

    q, k = (placed(case, name, projected(case, x, name)) for name in ("query", "key"))
    heads = attention(q, k, projected(case, x, "value"), lambda t, g: visible(case, t), weigh)
    return {"y": merged(case, gated(case, x, "g1", heads))}


def running_mean(case):
    mean, rho = case.tensors["buffer/running_mean"], case.config["affine_ema_rho"]
    if case.training:
        alpha = [row for x in case.input("x") for row in scales(case, x)]
        mean = [rho * m + (1 - rho) * math.fsum(a) / len(alpha) for m, a in zip(mean, zip(*alpha))]
    return {"buffer.running_mean": mean}


if __name__ == "__main__":
    main(layer, running_mean)
