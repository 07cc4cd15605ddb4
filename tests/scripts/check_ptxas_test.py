#!/usr/bin/env python3
"""What scripts/check_ptxas.py makes of ptxas's report."""
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "scripts"))
import check_ptxas  # noqa: E402

# Two instances of headway::f<int> and <float>, and headway::g.
REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN7headway1fIiEEvT_' for 'sm_90a'
ptxas info    : Function properties for _ZN7headway1fIiEEvT_
    16 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 16 bytes cumulative stack size
ptxas info    : Compiling entry function '_ZN7headway1fIfEEvT_' for 'sm_90a'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 90 registers, used 1 barriers
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient \
register resources for the wgmma pipeline in function '_ZN7headway1gEv'
ptxas info    : Compiling entry function '_ZN7headway1gEv' for 'sm_90a'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 0 barriers
"""


class CheckPtxas(unittest.TestCase):
    found = check_ptxas.measure(REPORT)

    def complaints(self, recorded):
        return list(check_ptxas.complaints("a.cu", self.found, recorded))

    def test_the_largest_instance_of_a_kernel_counts(self):
        self.assertEqual(self.found, {"headway::f": {"registers": 168, "spill bytes": 32, "serialised": 0},
                                      "headway::g": {"registers": 40, "spill bytes": 0, "serialised": 1}})

    def test_a_new_kernel_may_neither_spill_nor_serialise(self):
        self.assertEqual(self.complaints({}), ["a.cu: headway::f: spill bytes: 32, expected at most 0",
                                               "a.cu: headway::g: serialised: 1, expected at most 0"])

    def test_units_of_a_new_variant_are_known_by_its_header(self):
        recorded = {"kernels/cuda/attention/plain.cu": {}}
        self.assertFalse(check_ptxas.is_new_variant("kernels/cuda/attention/plain.cu", recorded))
        self.assertTrue(check_ptxas.is_new_variant("kernels/cuda/attention/plain.cu", {}))
        self.assertTrue(check_ptxas.is_new_variant("kernels/cuda/attention/plain_dropout.cu", recorded))
        self.assertFalse(check_ptxas.is_new_variant("kernels/cuda/adamw.cu", recorded))

    def test_what_is_recorded_passes_and_up_to_8_more_registers(self):
        self.assertEqual(self.complaints({"headway::f": {"registers": 160, "spill bytes": 32},
                                          "headway::g": {"registers": 40, "serialised": 1}}), [])

    def test_more_registers_than_that_are_named(self):
        self.assertEqual(self.complaints({"headway::f": {"registers": 159, "spill bytes": 32},
                                          "headway::g": {"registers": 31, "serialised": 1}}),
                         ["a.cu: headway::f: registers: 168, expected at most 167",
                          "a.cu: headway::g: registers: 40, expected at most 39"])


if __name__ == "__main__":
    unittest.main()
