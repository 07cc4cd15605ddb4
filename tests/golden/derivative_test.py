"""derivative.py: its gradients of softmax attention are those of the recorded cases, from another implementation."""
import pathlib
import sys
import unittest

try:
    import h5py
except ImportError:
    print("h5py is missing: not run")
    sys.exit(77)

import softmax
from case import LIMIT, Case, flat, largest_difference
from derivative import Number, backward, dot


def as_numbers(values):
    return [as_numbers(item) for item in values] if isinstance(values, list) else Number(values)


class Derivative(unittest.TestCase):
    def test_gradients_of_recorded_cases(self):
        for name in ("softmax-gqa-qk-norm", "softmax-window-no-rope"):
            path = pathlib.Path(__file__).parent / f"{name}.h5"
            recorded = Case.read(path).tensors
            inputs = {path: as_numbers(values) for path, values in recorded.items() if path.startswith(("param", "input"))}
            with h5py.File(path) as file:
                case = Case(name, dict(file.attrs), inputs)
            y = [softmax.layer(case, b)["y"] for b in range(len(case.input("x")))]
            backward(dot(flat(y), flat(recorded["grad_output/y"])))
            for tensor, numbers in inputs.items():
                gradient = [number.gradient for number in flat(numbers)]
                expected = recorded["grad/" + tensor.removeprefix("input/")]
                self.assertLessEqual(largest_difference(gradient, expected), LIMIT, f"{name} {tensor}")


if __name__ == "__main__":
    unittest.main()
