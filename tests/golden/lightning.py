"""Lightning attention, from arXiv 2405.17381 and the slopes of the authors' code: a sum over all earlier tokens."""
import math

from case import dot, heads_of, main, rows_times, sigmoid, silu


def alibi(H):
    """ALiBi's slopes; for H not a power of two, those of the next smaller one, then every second of the next."""
    if H & (H - 1) == 0:
        return [2.0 ** (-8.0 * (h + 1) / H) for h in range(H)]
    P = 1 << (H.bit_length() - 1)
    return alibi(P) + alibi(2 * P)[0::2][:H - P]


def slopes(case):
    H, L, l = case.config["num_heads"], case.num_layers, case.layer_index
    kind = case.config["decay"]
    if kind == "linear":
        return [8.0 * h / H * (1 - l / L) for h in range(H)]
    factor = 1.0 if kind == "alibi_flat" else 1 + 1e-5 if L == 1 else 1 - l / (L - 1) + 1e-5
    return [factor * a for a in alibi(H)]


def layer(case, b):
    c = case.config
    H, Dh = c["num_heads"], c["head_dim"]
    x = case.input("x")[b]
    T = len(x)
    with_lrpe = c["lrpe"] == "all" or (c["lrpe"] == "first_layer" and case.layer_index == 0)

    def branch(name, activation):
        rows = rows_times(x, case.param(name + ".weight"))
        return [heads_of([silu(z) for z in row] if activation == "silu" else row, H) for row in rows]

    def placed(rows):
        if not with_lrpe:
            return rows
        theta = case.param("lrpe.theta")
        at = [case.position_offset + t for t in range(T)]
        return [[[z * math.cos(at[t] * a) for z, a in zip(rows[t][h], theta[h])] +
                 [z * math.sin(at[t] * a) for z, a in zip(rows[t][h], theta[h])] for h in range(H)]
                for t in range(T)]

    q, k = placed(branch("query", c["qk_activation"])), placed(branch("key", c["qk_activation"]))
    v = branch("value", c["v_activation"])
    F, s = len(q[0][0]), slopes(case)
    state = case.input("state")
    state = state[b] if state else [[[0.0] * Dh for _ in range(F)] for _ in range(H)]

    outputs = []
    for t in range(T):
        row = []
        for h in range(H):
            weights = [math.exp(-s[h] * (t - j)) * dot(q[t][h], k[j][h]) for j in range(t + 1)]
            left = math.exp(-s[h] * (t + 1))
            row += [dot(weights, [v[j][h][d] for j in range(t + 1)]) +
                    left * dot(q[t][h], [line[d] for line in state[h]]) for d in range(Dh)]
        outputs.append(row)

    gain = case.param("norm.weight") if c["out_norm"] == "rms" else [1.0] * (H * Dh)
    gates = rows_times(x, case.param("gate.weight")) if c["gate"] != "none" else [[1.0] * (H * Dh)] * T
    if c["gate"] == "sigmoid":
        gates = [[sigmoid(u) for u in row] for row in gates]
    gated = []
    for row, gate in zip(outputs, gates):
        size = math.sqrt(dot(row, row) / len(row) + c["norm_eps"])
        gated.append([z / size * w * g for z, w, g in zip(row, gain, gate)])
    result = {"y": rows_times(gated, case.param("output.weight"))}
    if case.input("state"):
        result["state"] = [[[math.exp(-s[h] * T) * state[h][f][d] +
                             sum(math.exp(-s[h] * (T - 1 - t)) * k[t][h][f] * v[t][h][d] for t in range(T))
                             for d in range(Dh)] for f in range(F)] for h in range(H)]
    return result


if __name__ == "__main__":
    main(layer)
