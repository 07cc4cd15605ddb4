"""What scripts/check_layers.py accepts and refuses, on small trees made for the purpose."""
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "scripts"))
import check_layers  # noqa: E402


def complaints_about(files):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return list(check_layers.complaints(root))


class CheckLayers(unittest.TestCase):
    def test_includes_that_point_down_pass(self):
        self.assertEqual(complaints_about({
            "core/tensor.h": '#include <vector>\n#include "core/shape.h"\n',
            "trainers/trainer.cpp": '#include "core/tensor.h"\n#include "layers/model.h"\n',
            "tests/core/tensor_test.cpp": '#include "trainers/trainer.h"\n',
        }), [])

    def test_an_upward_include_names_file_and_line(self):
        found = complaints_about({"core/tensor.h": '#pragma once\n#include "autograd/node.h"\n'})
        self.assertEqual(len(found), 1)
        self.assertTrue(found[0].startswith('core/tensor.h:2: includes "autograd/node.h"'), found[0])

    def test_each_upward_edge_is_refused(self):
        for low, folder in enumerate(check_layers.ORDER):
            for high in check_layers.ORDER[low + 1:] + check_layers.OUTSIDE:
                found = complaints_about({f"{folder}/a.cpp": f'#include "{high}/b.h"\n'})
                self.assertEqual(len(found), 1, f"{folder} includes {high}")

    def test_layers_see_only_policies_of_kernels(self):
        self.assertEqual(complaints_about({
            "layers/attention/a.cpp": '#include "kernels/attention/variants/a.h"\n'}), [])
        self.assertEqual(len(complaints_about({
            "layers/attention/a.cpp": '#include "kernels/ops/matmul.h"\n'})), 1)

    def test_conditionals_stand_only_in_the_cuda_folders(self):
        text = "#ifdef __CUDACC__\n#endif\n"
        self.assertEqual(complaints_about({"core/cuda/backend.cpp": text, "core/host_device.h": text}), [])
        self.assertEqual(complaints_about({"kernels/cuda/linear/one_pass.cuh": text}), [])
        self.assertEqual(len(complaints_about({"core/tensor.h": text})), 1)
        self.assertEqual(len(complaints_about({"kernels/cuda/norm.cu": "#  if 1\n"})), 1)


if __name__ == "__main__":
    unittest.main()
