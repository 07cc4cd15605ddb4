"""NaLaFormer, from arXiv 2506.21137 and the authors' released code: a sum over all earlier tokens."""
import math

from case import dot, heads_of, main, rotate, rows_times, silu


def features(row, power, base, phase, split):
    amplitude = [abs(x) ** power for x in base]
    if split:
        return [a if x > 0 else 0.0 for a, x in zip(amplitude, base)] + \
               [a if x < 0 else 0.0 for a, x in zip(amplitude, base)]
    return [a * math.cos(f) for a, f in zip(amplitude, phase)] + [a * math.sin(f) for a, f in zip(amplitude, phase)]


def layer(case, b):
    c = case.config
    H, Dh = c["num_heads"], c["head_dim"]
    x = case.input("x")[b]
    T = len(x)
    taps = c["short_conv"]
    power = case.param("lambda")[0] if c["lambda_learnable"] else c["lambda"]

    def branch(index, name):
        rows = rows_times(x, case.param(name + ".weight"))
        if taps == 0:
            return rows
        weight, history = case.param(name + "_conv.weight"), case.input("conv_state")
        before = history[index][b] if history else [[0.0] * len(rows[0])] * (taps - 1)
        padded = before + rows
        out = [[sum(weight[ch][j] * padded[t + j][ch] for j in range(taps)) for ch in range(len(weight))]
               for t in range(T)]
        return [[silu(v) for v in row] for row in out] if name == "value" else out

    def phases(row, direction):
        return {"tanh_direction": lambda: [math.pi / 4 * math.tanh(d) for d in direction],
                "direction": lambda: [math.pi / 4 * d for d in direction],
                "tanh_raw": lambda: [math.pi / 4 * math.tanh(z) for z in row],
                "none": lambda: [0.0] * len(row)}[c["phase"]]()

    def map_row(row, is_query):
        r = math.sqrt(dot(row, row) + c["direction_eps"])
        direction = [z / r for z in row]
        split = c["feature_map"] == "relu_split"
        if is_query:
            scale = math.sqrt(Dh) if c["q_rescale"] else 1.0
            return features(row, power * (c["tau"] + math.tanh(c["qnorm_scale"] * r)),
                            [scale * d for d in direction], phases(row, direction), split)
        base = direction if c["key_norm"] == "unit" else row
        return features(row, power, base, phases(row, direction), split)

    def turned(row, t):
        if not c["rope"]:
            return row
        position = case.position_offset + t
        return rotate(row[:Dh], position) + rotate(row[Dh:], position)

    fq = [[map_row(h, True) for h in heads_of(row, H)] for row in branch(0, "query")]
    fk = [[map_row(h, False) for h in heads_of(row, H)] for row in branch(1, "key")]
    v = [heads_of(row, H) for row in branch(2, "value")]
    rq = [[turned(f, t) for f in row] for t, row in enumerate(fq)]
    rk = [[turned(f, t) for f in row] for t, row in enumerate(fk)]

    state = case.input("state")
    state = state[b] if state else [[[0.0] * (Dh + 1) for _ in range(2 * Dh)] for _ in range(H)]
    outputs = []
    for t in range(T):
        row = []
        for h in range(H):
            scores = [dot(rq[t][h], rk[j][h]) for j in range(t + 1)]
            den = c["normaliser_eps"] + sum(dot(fq[t][h], fk[j][h]) for j in range(t + 1)) + \
                dot(fq[t][h], [line[Dh] for line in state[h]])
            for d in range(Dh):
                num = dot(scores, [v[j][h][d] for j in range(t + 1)]) + \
                    dot(rq[t][h], [line[d] for line in state[h]])
                row.append(num / den if c["normaliser"] == "sum" else num)
        outputs.append(row)

    weight = case.param("norm.weight")
    normed = []
    for row in outputs:
        if c["out_norm"] == "layernorm":
            mean = math.fsum(row) / len(row)
            spread = math.sqrt(math.fsum((z - mean) ** 2 for z in row) / len(row) + c["norm_eps"])
            normed.append([(z - mean) / spread * w + s for z, w, s in zip(row, weight, case.param("norm.bias"))])
        else:
            normed.append([z / math.sqrt(dot(h, h) / Dh + c["norm_eps"]) * w
                           for h in heads_of(row, H) for z, w in zip(h, weight)])
    if c["gate"] == "silu":
        gates = rows_times(x, case.param("gate.weight"))
        normed = [[z * silu(g) for z, g in zip(row, gate)] for row, gate in zip(normed, gates)]
    result = {"y": rows_times(normed, case.param("output.weight"))}
    if case.input("state"):
        result["state"] = [[[state[h][f][d] + sum(rk[t][h][f] * v[t][h][d] for t in range(T)) for d in range(Dh)] +
                            [state[h][f][Dh] + sum(fk[t][h][f] for t in range(T))]
                            for f in range(2 * Dh)] for h in range(H)]
    return result


if __name__ == "__main__":
    main(layer)
