"""Losses and gradients that are not finite: nothing is updated with them, and the run says where they arose."""
import unittest

import h5py
import numpy as np

from runs import Runs

# RMSNorm of zeros without an epsilon divides zero by zero.
NOT_FINITE = ("model.init_std=0", "model.norm_eps=0")


class Numbers(Runs):
    def check_weights_are_finite(self, name):
        with h5py.File(self.newest_checkpoint(name)) as file:
            self.assertTrue(np.all(np.isfinite(file["model/embedding"][()])))
            self.assertTrue(np.all(np.isfinite(file["optim/adamw/m/embedding"][()])))

    def test_a_run_stops_before_the_update_and_saves_the_last_good_state(self):
        for ranks in (None, 2):
            name = f"stop{ranks}"
            done = self.train(name, *NOT_FINITE, ranks=ranks, status=6)
            self.assertRegex(done.stdout, r"step 1: loss .*nan.* not finite .*gradient of \w+.* sample")
            self.check_weights_are_finite(name)
            record = self.record(name)
            self.assertEqual((record["status"], record["attempts"][-1]["exit_status"]), ("failed", 6))

    def test_skipping_ends_after_so_many_in_a_row(self):
        done = self.train("skip", *NOT_FINITE, "train.on_nonfinite=skip", "train.max_skipped=3", status=6)
        self.assertEqual(done.stdout.count("the update is skipped"), 2)
        self.check_weights_are_finite("skip")


if __name__ == "__main__":
    unittest.main()
