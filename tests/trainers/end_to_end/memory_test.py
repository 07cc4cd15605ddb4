"""A run needs no more memory after a thousand steps than after a hundred."""
import pathlib
import unittest

from runs import Runs


def resident_mib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError("no VmRSS")


class Memory(Runs):
    def test_a_thousand_steps_do_not_grow(self):
        process = self.start("long", "train.max_steps=1000000", "train.batch_tokens=128", "checkpoint.every_steps=50",
                             "eval.every_steps=50")
        sizes = {}
        for step in (100, 1100):
            self.wait_for_step(process, "long", step, seconds=300)
            sizes[step] = resident_mib(process.pid)
        # One activation of [4, 32, 32] kept per step would be 16 MiB by now.
        self.assertLessEqual(sizes[1100], sizes[100] + 4, f"resident MiB by step: {sizes}")


if __name__ == "__main__":
    unittest.main()
