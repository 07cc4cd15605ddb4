"""Records golden cases of a kind from its definition, tests/golden/<kind>.py: outputs, and exact gradients of
sum(y * grad_output), on random numbers from a seed that follows from the case's name. Common parameters are known
here; a definition with others says their shapes in parameters(config, model_dim).

    python3 tests/golden/record.py soft_cap grouped \\
        '{"num_heads": 4, "num_kv_heads": 2, "head_dim": 4, "rope": true, "qk_norm": false, "window": 0, "cap": 1.5}'

writes tests/golden/soft_cap-grouped.h5. The keys of the kind stand in the JSON object, defaults included.
"""
import importlib
import json
import pathlib
import random
import sys

import h5py

from case import Case, flat, heads_of
from derivative import Number, backward, dot, value

MODEL_DIM, BATCH, TOKENS = 10, 2, 9


def common_parameters(c, D):
    if "num_heads" not in c:  # a layer of layers
        return {}
    query, key = c["num_heads"] * c["head_dim"], c["num_kv_heads"] * c["head_dim"]
    value_dim = c.get("value_dim") or c["head_dim"]
    shapes = {"query.weight": (query, D), "key.weight": (key, D),
              "value.weight": (c["num_kv_heads"] * value_dim, D), "output.weight": (D, c["num_heads"] * value_dim)}
    if c["qk_norm"]:
        shapes |= {"query_norm.weight": (c["head_dim"],), "key_norm.weight": (c["head_dim"],)}
    return shapes


def nested(numbers, shape):
    if len(shape) == 1:
        return numbers
    return [nested(part, shape[1:]) for part in heads_of(numbers, shape[0])]


def main(kind, name, keys):
    definition, config = importlib.import_module(kind), json.loads(keys)
    shapes = common_parameters(config, MODEL_DIM)
    if hasattr(definition, "parameters"):
        shapes |= definition.parameters(config, MODEL_DIM)
    shapes = {"input/x": (BATCH, TOKENS, MODEL_DIM)} | {"param/" + path: shape for path, shape in shapes.items()}

    source = random.Random(f"{kind}-{name}")
    normal = {path: 1.0 if path == "input/x" else 1.5 / shape[-1] ** 0.5 for path, shape in shapes.items()}
    tensors = {path: nested([Number(source.gauss(0, normal[path])) for _ in range(size(shape))], shape)
               for path, shape in shapes.items()}
    attributes = {"format": 1, "kind": kind, "config": keys, "model_dim": MODEL_DIM, "layer_index": 0,
                  "num_layers": 2, "training": 1, "aux_weight": 0.0, "source": f"tests/golden/{kind}.py"}
    case = Case(f"{kind}-{name}", attributes, tensors)
    y = [definition.layer(case, b)["y"] for b in range(BATCH)]
    upstream = [source.gauss(0, 1) for _ in flat(y)]
    backward(dot(flat(y), upstream))

    path = pathlib.Path(__file__).parent / f"{kind}-{name}.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        shape = shapes["input/x"]
        file["output/y"] = nested([value(number) for number in flat(y)], shape)
        file["grad_output/y"] = nested(upstream, shape)
        for tensor, numbers in tensors.items():
            file[tensor] = nested([number.value for number in flat(numbers)], shapes[tensor])
            gradient = "grad/" + tensor.removeprefix("input/")
            file[gradient] = nested([number.gradient for number in flat(numbers)], shapes[tensor])
    print(f"wrote {path}")


def size(shape):
    product = 1
    for length in shape:
        product *= length
    return product


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
