"""Gated attention, from arXiv 2505.06708: softmax attention with one of its five tensors gated."""
import math

from case import flat, heads_of, main, rows_times, sigmoid, silu
from softmax_family import attention, merged, placed, projected, visible

ACTIVATIONS = {"sigmoid": sigmoid, "ns_sigmoid": lambda z: 0.5 + 0.5 * sigmoid(z), "silu": silu,
               "identity": lambda z: z}


def mean_over_heads(scores):
    """The same mean for each head."""
    return [[math.fsum(channel) / len(scores) for channel in zip(*scores)]] * len(scores)


def gates(case, x, num_heads):
    """act(Z) for the heads of every token; a headwise gate has one channel."""
    c = case.config
    if c["gate_input"] == "none":
        rows = [flat(case.param("gate.logit"))] * len(x)
    else:
        width = c["gate_input_dims"] or len(x[0])
        rows = rows_times([row[:width] for row in x], case.param("gate.weight"))
        bias = case.param("gate.bias") if c["gate_bias"] else [0.0] * len(rows[0])
        rows = [[z + s for z, s in zip(row, bias)] for row in rows]
    out = []
    for row in rows:
        scores = heads_of(row, num_heads)
        if c["gate_heads"] == "shared_mean_pre":
            scores = mean_over_heads(scores)
        scores = [[ACTIVATIONS[c["gate_act"]](z) for z in head] for head in scores]
        out.append(mean_over_heads(scores) if c["gate_heads"] == "shared_mean_post" else scores)
    return out


def gated(case, x, position, heads):
    """The heads of every token, gated if the gate is at this position."""
    c = case.config
    if c["gate_position"] != position:
        return heads

    def combined(head, gate):
        gate = gate * len(head) if c["gate_granularity"] == "headwise" else gate
        return [y * g if c["gate_combine"] == "mul" else y + g for y, g in zip(head, gate)]

    return [[combined(head, gate) for head, gate in zip(row, line)]
            for row, line in zip(heads, gates(case, x, len(heads[0])))]


def layer(case, b):
    x = case.input("x")[b]
    q = placed(case, "query", gated(case, x, "g4", projected(case, x, "query")))
    k = placed(case, "key", gated(case, x, "g3", projected(case, x, "key")))
    v = gated(case, x, "g2", projected(case, x, "value"))
    heads = gated(case, x, "g1", attention(q, k, v, lambda t, g: visible(case, t)))
    y = gated(case, x, "g5", [[row] for row in merged(case, heads)])  # the whole row as one head
    return {"y": [row[0] for row in y]}


if __name__ == "__main__":
    main(layer)
