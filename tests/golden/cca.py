"""Compressed convolutional attention, from arXiv 2510.04476: one token, head and channel at a time."""
import math

from case import dot, heads_of, main, rows_times
from softmax_family import attention, merged, turned, visible


def norm_scaled(row, eps, scale):
    return [scale * x / math.sqrt(dot(row, row) + eps) for x in row]


def layer(case, b):
    c = case.config
    H, K, Dh = c["num_heads"], c["num_kv_heads"], c["head_dim"]
    G = H // K
    x = case.input("x")[b]
    T = len(x)
    u0 = [q + k for q, k in zip(rows_times(x, case.param("query.weight")), rows_times(x, case.param("key.weight")))]
    zero = [0.0] * len(u0[0])
    wa, ba = case.param("conv_a.weight"), case.param("conv_a.bias")
    wb, bb = case.param("conv_b.weight"), case.param("conv_b.bias")
    K0, K1 = c["conv_widths"]

    def u1(t):  # exists before token 0 too, made of zeros
        window = [u0[s] if s >= 0 else zero for s in range(t - K0 + 1, t + 1)]
        return [ba[ch] + sum(wa[ch][j] * window[j][ch] for j in range(K0)) for ch in range(len(zero))]

    first = {t: u1(t) for t in range(1 - K1, T)}
    queries, keys = [], []
    for t in range(T):
        raw = heads_of(u0[t], H + K)
        mixed = [[bb[m * Dh + o] + sum(dot([wb[m][o][i][j] for i in range(Dh)],
                                           heads_of(first[t - K1 + 1 + j], H + K)[m]) for j in range(K1))
                  for o in range(Dh)] for m in range(H + K)]
        if c["qk_mean"]:
            mean_q = [[(q + k) / 2 for q, k in zip(raw[h], raw[H + h // G])] for h in range(H)]
            for h in range(H):
                mixed[h] = [a + m for a, m in zip(mixed[h], mean_q[h])]
            for g in range(K):
                mixed[H + g] = [a + sum(mean_q[g * G + n][d] for n in range(G)) / G
                                for d, a in enumerate(mixed[H + g])]
        queries.append([norm_scaled(mixed[h], c["norm_eps"], math.sqrt(Dh)) for h in range(H)])
        betas = [math.exp(z) if c["temperature"] == "exp" else z for z in case.param("temperature")]
        keys.append([norm_scaled(mixed[H + g], c["norm_eps"], betas[g] * math.sqrt(Dh)) for g in range(K)])

    projected = rows_times(x, case.param("value.weight"))
    half = K * Dh // 2
    values = []
    for t in range(T):
        before = projected[t - 1] if t > 0 else [0.0] * (K * Dh)
        row = projected[t][:half] + before[half:] if c["value_shift"] else projected[t]
        values.append(heads_of(row, K))

    heads = attention(turned(case, queries), turned(case, keys), values, lambda t, g: visible(case, t))
    return {"y": merged(case, heads)}


if __name__ == "__main__":
    main(layer)
