"""Differential attention, from arXiv 2410.05258, section 2.1: the difference of two softmax maps weighs the values.

Score heads come in pairs 2h and 2h + 1, the maps of differential head h, whose values are as wide as both."""
import math

from case import flat, main
from derivative import dot, exp, sqrt
from softmax_family import merged, placed, projected, softmax, visible


def parameters(config, model_dim):
    Dh = config["head_dim"]
    return {"lambda_query": (2, Dh), "lambda_key": (2, Dh), "norm.weight": (2 * Dh,)}


def layer(case, b):
    c, x = case.config, case.input("x")[b]
    H, K, Dh = c["num_heads"] // 2, c["num_kv_heads"] // 2, c["head_dim"]
    q, k = (placed(case, name, projected(case, x, name)) for name in ("query", "key"))
    values = projected(case, x, "value")
    start = 0.8 - 0.6 * math.exp(-0.3 * case.layer_index)
    first, second = (exp(dot(a, z)) for a, z in zip(case.param("lambda_query"), case.param("lambda_key")))
    factor = first - second + start

    heads = []
    for t in range(len(x)):
        row, keys = [], visible(case, t)
        for h in range(H):
            g = h * K // H
            maps = [softmax([dot(q[t][2 * h + i], k[j][2 * g + i]) / math.sqrt(Dh) for j in keys]) for i in (0, 1)]
            weights = [p - factor * n for p, n in zip(*maps)]
            wide = [values[j][2 * g] + values[j][2 * g + 1] for j in keys]
            out = [dot(weights, [v[d] for v in wide]) for d in range(2 * Dh)]
            size = sqrt(dot(out, out) / len(out) + 1e-5)
            row.append([(1 - start) * o / size * w for o, w in zip(out, case.param("norm.weight"))])
        heads.append(row)
    return {"y": merged(case, heads)}


if __name__ == "__main__":
    main(layer)
