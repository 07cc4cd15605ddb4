"""What the kinds of the softmax family share: heads of projections, QK-norm, RoPE, attention, merging."""
import math

from case import flat, heads_of, rotate, rows_times
from derivative import dot, exp, sqrt, total


def softmax(scores):
    largest = max(scores)
    weights = [exp(s - largest) for s in scores]
    size = total(weights)
    return [w / size for w in weights]


def projected(case, x, name):
    """The heads of every token; the weight of query has num_heads of them, key and value num_kv_heads."""
    count = case.config["num_heads" if name == "query" else "num_kv_heads"]
    return [heads_of(row, count) for row in rows_times(x, case.param(name + ".weight"))]


def turned(case, heads):
    """RoPE of the heads of every token, if on."""
    c = case.config
    if not c["rope"]:
        return heads
    theta, fraction = c.get("rope_theta", 10000.0), c.get("rope_fraction", 1.0)
    return [[rotate(head, t, theta, fraction) for head in row] for t, row in enumerate(heads)]


def placed(case, name, heads):
    """QK-norm, if on, then RoPE."""
    if case.config["qk_norm"]:
        weight = case.param(name + "_norm.weight")
        heads = [[[z / sqrt(dot(head, head) / len(head) + 1e-6) * w for z, w in zip(head, weight)]
                  for head in row] for row in heads]
    return turned(case, heads)


def visible(case, t):
    """The keys of query t: itself and the tokens before it, as far as the window reaches."""
    window = case.config["window"]
    return range(max(0, t - window + 1) if window else 0, t + 1)


def attention(q, k, v, seen, weigh=lambda t, h, scores: softmax(scores)):
    """seen(t, g): keys that KV head g shows query t; weigh(t, h, their scores): weights of their values."""
    H, G, Dh = len(q[0]), len(q[0]) // len(k[0]), len(q[0][0])
    out = []
    for t in range(len(q)):
        row = []
        for h in range(H):
            keys = seen(t, h // G)
            weights = weigh(t, h, [dot(q[t][h], k[j][h // G]) / math.sqrt(Dh) for j in keys])
            row.append([dot(weights, [v[j][h // G][d] for j in keys]) for d in range(Dh)])
        out.append(row)
    return out


def merged(case, heads):
    return rows_times([flat(row) for row in heads], case.param("output.weight"))
