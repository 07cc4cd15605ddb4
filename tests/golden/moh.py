"""Mixture-of-head attention, from arXiv 2410.11842 and the authors' code: all heads, each times its gate."""
import math

from case import main, rows_times
from softmax_family import attention, merged, placed, projected, softmax, visible


def route(case, logits):
    """The gates of one token's heads, its routed choice and the probabilities of its routed heads."""
    c = case.config
    H, Hs, K = c["num_heads"], c["shared_heads"], c["top_k"]
    routed = logits[Hs:H]
    probabilities = softmax(routed)
    chosen = sorted(range(H - Hs), key=lambda i: (-routed[i], i))[:K]
    shared = softmax(logits[:Hs]) if Hs else []
    mixing = softmax(logits[H:]) if Hs else [0.0, 1.0]
    gates = [0.0] * H
    if c["gate_mode"] == "paper":
        gates[:Hs] = [mixing[0] * p for p in shared]
        for i in chosen:
            gates[Hs + i] = mixing[1] * probabilities[i]
    else:
        double = 2.0 if Hs else 1.0
        gates[:Hs] = [double * mixing[0] * Hs * p for p in shared]
        for i, r in zip(chosen, softmax([routed[i] for i in chosen])):
            gates[Hs + i] = double * mixing[1] * K * r
    return gates, chosen, probabilities


def routes(case, x):
    return [route(case, logits) for logits in rows_times(x, case.param("router.weight"))]


def layer(case, b):
    x = case.input("x")[b]
    q, k = (placed(case, name, projected(case, x, name)) for name in ("query", "key"))
    heads = attention(q, k, projected(case, x, "value"), lambda t, g: visible(case, t))
    return {"y": merged(case, [[[gate * z for z in head] for gate, head in zip(gates, row)]
                               for (gates, _, _), row in zip(routes(case, x), heads)])}


def balance_loss(case):
    tokens = [token for x in case.input("x") for token in routes(case, x)]
    E = case.config["num_heads"] - case.config["shared_heads"]
    products = [math.fsum(probabilities[i] for _, _, probabilities in tokens) / len(tokens) *
                sum(i in chosen for _, chosen, _ in tokens) / len(tokens) for i in range(E)]
    return {"balance_loss": math.fsum(products) * (1 if case.config["gate_mode"] == "paper" else E)}


if __name__ == "__main__":
    main(layer, balance_loss)
