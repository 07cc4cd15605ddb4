"""Losses and gradients that are not finite: nothing is updated with them, and the run says where they arose."""
import re
import unittest

import h5py
import numpy as np

from runs import Runs

# RMSNorm of zeros without an epsilon divides zero by zero.
NOT_FINITE = ("model.init_std=0", "model.norm_eps=0")


class Numbers(Runs):
    def check_weights_are_finite(self, name):
        checkpoints = self.folder / "runs" / name / "checkpoints"
        self.assertFalse(list(checkpoints.glob("step-*.h5")))
        kept, = checkpoints.glob("aside/step-*-not-finite.h5")
        with h5py.File(kept) as file:
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

    def test_a_run_goes_on_from_before_the_weights_whose_gradient_is_not_finite(self):
        # Each decay multiplies the weights by -99, until their squares overflow.
        bad = ("optim.lr=10", "optim.weight_decay=10", "schedule.kind=constant", "checkpoint.resume=auto",
               "checkpoint.allow=[optim.lr, optim.weight_decay, schedule.kind]")
        for every in (0, 1):
            with self.subTest(every_steps=every):
                name = f"run{every}"
                self.train(name, "train.stop_step=3", f"checkpoint.every_steps={every}")
                said = self.train(name, *bad, f"checkpoint.every_steps={every}", status=6).stdout
                failed = int(re.search(r"step (\d+): loss .*-not-finite.h5 keeps the state before that step", said)[1])
                newest = int(self.newest_checkpoint(name).stem.split("-")[1])
                self.assertEqual(newest, 3 if every == 0 else failed - 2)
                aside = self.newest_checkpoint(name).parent / "aside"
                self.assertTrue((aside / f"step-{failed - 1:08}-not-finite.h5").exists())
                self.assertEqual((aside / f"step-{failed - 1:08}.h5").exists(), every == 1)
        self.train("run0", "checkpoint.resume=auto", "train.stop_step=8")
        self.assertEqual(sorted(self.curve("run0")), list(range(1, 9)))


if __name__ == "__main__":
    unittest.main()
