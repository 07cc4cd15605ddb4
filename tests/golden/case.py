"""Runs a definition of an attention layer, written in plain Python, on golden cases.

The definitions share nothing with the C++ code: a mistake that a kernel and its tests have in common shows here.
    python3 tests/golden/cca.py tests/golden/cca-*.h5
"""
import json
import math
import pathlib
import struct
import sys

try:
    import h5py
except ImportError:
    print("h5py is missing: not run")
    sys.exit(77)

from derivative import dot, exp

LIMIT = 1e-9


def rows_times(rows, matrix):
    """x W^T for a list of rows."""
    return [[dot(row, out) for out in matrix] for row in rows]


def heads_of(row, num_heads):
    width = len(row) // num_heads
    return [row[h * width:(h + 1) * width] for h in range(num_heads)]


def rotate(row, position, theta=10000.0, fraction=1.0):
    """RoPE: channel i turns with channel i + R/2."""
    width = int(fraction * len(row))
    half = width // 2
    out = list(row)
    for i in range(half):
        angle = position * theta ** (-2 * i / width)
        a, b = row[i], row[i + half]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


def sigmoid(x):
    return 1 / (1 + exp(-x))


def silu(x):
    return x * sigmoid(x)


def to_float32(x):
    """A constant rounded to float32, the precision that the layers hold it in."""
    return struct.unpack("f", struct.pack("f", x))[0]


class Case:
    def __init__(self, name, attributes, tensors):
        """tensors: nested lists by the names of the file's datasets."""
        self.name, self.tensors = name, tensors
        self.config = json.loads(attributes["config"])
        self.layer_index = int(attributes["layer_index"])
        self.num_layers = int(attributes["num_layers"])
        self.training = bool(attributes["training"])
        self.position_offset = int(attributes.get("position_offset", 0))

    @classmethod
    def read(cls, path):
        tensors = {}
        with h5py.File(path) as file:
            file.visititems(lambda name, item: tensors.update({name: item[()].tolist()})
                            if isinstance(item, h5py.Dataset) else None)
            return cls(pathlib.Path(path).name, dict(file.attrs), tensors)

    def param(self, name):
        return self.tensors["param/" + name]

    def input(self, name):
        return self.tensors.get("input/" + name)


def flat(values):
    return [x for item in values for x in flat(item)] if isinstance(values, list) else [values]


def largest_difference(actual, expected):
    actual, expected = flat(actual), flat(expected)
    assert len(actual) == len(expected), (len(actual), len(expected))
    differences = [abs(a - e) for a, e in zip(actual, expected)]
    if any(map(math.isnan, differences)):  # max() would pass over them
        return math.nan
    return max(differences) / max(abs(e) for e in expected)


def main(layer, shared=lambda case: {}):
    """layer(case, b) gives {"y": ..., "state": ...} of sequence b, shared(case) what all sequences share.

    Together they must give every output of the case, and no other."""
    failed = not sys.argv[1:]
    for path in sys.argv[1:]:
        case = Case.read(path)
        sequences = [layer(case, b) for b in range(len(case.input("x")))]
        actual = {name: [s[name] for s in sequences] for name in sequences[0]} | shared(case)
        expected = {key.removeprefix("output/"): value for key, value in case.tensors.items()
                    if key.startswith("output/")}
        if actual.keys() != expected.keys():
            print(f"{case.name}: gives {sorted(actual)}, expected {sorted(expected)} FAILED")
            failed = True
        for name in sorted(actual.keys() & expected.keys()):
            error = largest_difference(actual[name], expected[name])
            good = error <= LIMIT
            print(f"{case.name} {name}: {error:.1e}{'' if good else ' FAILED'}")
            failed = failed or not good
    sys.exit(1 if failed else 0)
