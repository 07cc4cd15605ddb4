"""A run asked to stop saves, says so by its exit status, and goes on where it stopped."""
import os
import signal
import time
import unittest

from runs import STOP, Runs


class Signals(Runs):
    def check_stop(self, name, ranks, number=STOP, to_one_rank=False):
        process = self.start(name, "train.max_steps=1000000", ranks=ranks)
        self.wait_for_step(process, name, 5)
        os.kill(self.ranks_of(process)[0] if to_one_rank else process.pid, number)
        self.assertEqual(self.assert_ends(process, 30), 75, self.output_of(name))
        saved = int(self.newest_checkpoint(name).stem.split("-")[1])
        self.assertGreaterEqual(saved, 5)
        self.assertEqual(self.record(name)["status"], "stopped")
        self.train(name, "train.max_steps=1000000", "checkpoint.resume=auto", f"train.stop_step={saved + 5}",
                   ranks=ranks)
        attempts = self.record(name)["attempts"]
        self.assertEqual([(a["status"], a["exit_status"], a["first_step"], a["last_step"]) for a in attempts],
                         [("stopped", 75, 0, saved), ("finished", 0, saved, saved + 5)])
        self.assertEqual(sorted(self.curve(name)), list(range(1, saved + 6)))

    def test_sigusr1_to_mpirun_saves_and_exits_75(self):
        self.check_stop("job", ranks=2)

    def test_sigusr1_to_one_rank_stops_all(self):
        self.check_stop("rank", ranks=2, to_one_rank=True)

    def test_sigterm_and_sigint_without_mpirun_save_and_exit_75(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            self.check_stop(number.name, ranks=None, number=number)

    def test_a_signal_at_any_moment_of_the_start_loses_nothing(self):
        for milliseconds in (0, 20, 50, 100, 200, 400):
            name = f"early{milliseconds}"
            process = self.start(name, "train.max_steps=1000000")
            time.sleep(milliseconds / 1000)
            process.send_signal(STOP)
            # Before the program has asked for signals, the system ends it.
            self.assertIn(self.assert_ends(process, 30), (75, -STOP), self.output_of(name))
            stopped_at = max([0, *self.curve(name)])
            self.train(name, "train.max_steps=1000000", "checkpoint.resume=auto", f"train.stop_step={stopped_at + 5}")
            self.assertEqual(sorted(self.curve(name)), list(range(1, stopped_at + 6)))


if __name__ == "__main__":
    unittest.main()
