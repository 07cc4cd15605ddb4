"""Training on GPUs: one rank and several, whole and sharded, interrupted and not.

On a machine with a single GPU the ranks share it: NCCL allows that where it takes them for ranks of different
machines (NCCL_HOSTID). Without a GPU everything is skipped, or fails where HEADWAY_REQUIRE_GPU=1.
"""
import functools
import os
import pathlib
import subprocess
import sys
import unittest

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "trainers" / "end_to_end"))
from runs import MPIEXEC, PROGRAM, Runs  # noqa: E402


@functools.cache
def num_gpus():
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout.count("GPU ")
    except (OSError, subprocess.CalledProcessError):
        return 0


class GpuRanks(Runs):
    def command(self, *arguments, ranks=None):
        if not ranks:
            return [PROGRAM, *map(str, arguments)]
        if num_gpus() >= ranks:
            return [MPIEXEC, "-np", str(ranks), PROGRAM, *map(str, arguments)]
        parts = []
        for rank in range(ranks):
            parts += [":"] if rank else []
            parts += ["-np", "1", "-x", f"NCCL_HOSTID={rank}", PROGRAM, *map(str, arguments)]
        return [MPIEXEC, *parts]

    def setUp(self):
        super().setUp()
        probe = self.headway("train", self.recipe, "run.name=probe", "run.device=cuda", "train.stop_step=1")
        if probe.returncode != 0 and "GPU" in probe.stdout:
            if os.environ.get("HEADWAY_REQUIRE_GPU") == "1":
                self.fail(probe.stdout)
            self.skipTest("no GPU is usable here")
        self.assertEqual(probe.returncode, 0, probe.stdout)

    def train_on_gpu(self, name, *overrides, ranks=None):
        return self.train(name, "run.device=cuda", "train.dtype=bf16", *overrides, ranks=ranks)

    def assert_alike(self, first, second, limit):
        one, other = self.curve(first), self.curve(second)
        self.assertEqual(one.keys(), other.keys())
        for step, loss in one.items():
            self.assertLessEqual(abs(loss - other[step]), limit, f"step {step} of {second}")

    def test_two_ranks_train_as_one_and_repeat_their_bits(self):
        self.train_on_gpu("one")
        self.assertLess(self.curve("one")[40], self.curve("one")[1] - 1)  # it does learn
        for name in ("two", "again"):
            output = self.train_on_gpu(name, ranks=2).stdout
            self.assertIn("2 ranks", output)
        self.assertEqual(self.curve("two"), self.curve("again"))
        # bf16 products round a sum over half a batch otherwise than one over all of it.
        self.assert_alike("one", "two", 2e-2)

    def test_fp32_on_two_ranks_is_that_of_the_cpu(self):
        self.train("cpu", "run.device=cpu")
        self.train("gpu", "run.device=cuda", ranks=2)
        self.assert_alike("cpu", "gpu", 1e-3)

    def test_a_sharded_optimizer_changes_no_number(self):
        self.train_on_gpu("whole", ranks=2)
        self.train_on_gpu("sharded", "train.shard_optimizer=true", ranks=2)
        self.assert_alike("whole", "sharded", 1e-3)

    def test_an_interrupted_sharded_run_ends_with_the_same_bits(self):
        self.train_on_gpu("whole", "train.shard_optimizer=true", ranks=2)
        for stop in (15, 0):
            self.train_on_gpu("parts", "train.shard_optimizer=true", "checkpoint.resume=auto",
                              f"train.stop_step={stop}", ranks=2)
        self.assertEqual(self.curve("whole"), self.curve("parts"))

    def test_ranks_that_share_sequences_train_as_one_and_repeat_their_bits(self):
        for kind in ("lightning", "hedgehog", "nalaformer"):
            keys = (f"model.attention.kind={kind}", "model.attention.short_conv=3", "model.dropout=0.1",
                    "run.force_new=true")
            self.train_on_gpu("one", *keys)
            for name in ("shared", "again"):
                self.train_on_gpu(name, *keys, "train.context_parallel=2", ranks=2)
            self.assertEqual(self.curve("shared"), self.curve("again"), kind)
            self.assert_alike("one", "shared", 2e-2)

    def test_affine_running_means_are_those_of_all_ranks(self):
        keys = ("model.attention.kind=affine",)
        self.train_on_gpu("one", *keys)
        self.train_on_gpu("two", *keys, ranks=2)
        self.assert_alike("one", "two", 2e-2)


if __name__ == "__main__":
    unittest.main()
