"""Hedgehog, from arXiv 2402.04347 and 2410.10254: normalised weights over all earlier tokens."""
import math

from case import dot, heads_of, main, rotate, rows_times


def features(u, kind):
    top, bottom = max(u), min(u)
    if kind == "exp":
        return [math.exp(z) for z in u] + [math.exp(-z) for z in u]
    if kind == "joint":
        size = 2 * max(top, -bottom)
        raw = [math.exp(2 * z - size) for z in u] + [math.exp(-2 * z - size) for z in u]
        return [r / math.fsum(raw) for r in raw]
    plus, minus = [math.exp(z - top) for z in u], [math.exp(bottom - z) for z in u]
    if kind == "expmax":
        return plus + minus
    return [p / math.fsum(plus) for p in plus] + [m / math.fsum(minus) for m in minus]


def layer(case, b):
    c = case.config
    H, Dh = c["num_heads"], c["head_dim"]
    x = case.input("x")[b]
    T = len(x)

    def mapped(name):
        rows = [heads_of(row, H) for row in rows_times(x, case.param(name + ".weight"))]
        weight = case.param(name + "_map.weight")
        bias = case.param(name + "_map.bias") if c["map_bias"] else [[0.0] * len(matrix) for matrix in weight]
        result = []
        for t, row in enumerate(rows):
            turned = [rotate(z, case.position_offset + t) for z in row] if c["rope"] else row
            result.append([features([dot(line, turned[h]) + s for line, s in zip(weight[h], bias[h])],
                                    c["feature_map"]) for h in range(H)])
        return result

    fq, fk = mapped("query"), mapped("key")
    v = [heads_of(row, H) for row in rows_times(x, case.param("value.weight"))]
    F = len(fq[0][0])
    state = case.input("state")
    state = state[b] if state else [[[0.0] * (Dh + 1) for _ in range(F)] for _ in range(H)]

    outputs = []
    for t in range(T):
        row = []
        for h in range(H):
            weights = [dot(fq[t][h], fk[j][h]) for j in range(t + 1)]
            before = [dot(fq[t][h], [line[d] for line in state[h]]) for d in range(Dh + 1)]
            total = math.fsum(weights) + before[Dh] + c["normaliser_eps"]
            row += [(dot(weights, [v[j][h][d] for j in range(t + 1)]) + before[d]) / total for d in range(Dh)]
        outputs.append(row)
    result = {"y": rows_times(outputs, case.param("output.weight"))}
    if case.input("state"):
        result["state"] = [[[state[h][f][d] + sum(fk[t][h][f] * (v[t][h] + [1.0])[d] for t in range(T))
                             for d in range(Dh + 1)] for f in range(F)] for h in range(H)]
    return result


if __name__ == "__main__":
    main(layer)
