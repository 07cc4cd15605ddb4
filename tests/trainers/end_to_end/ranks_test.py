"""The same training on 1, 2 and 4 ranks, and what becomes of a job that loses a rank."""
import os
import signal
import unittest

from runs import Runs, cursor


class Ranks(Runs):
    def test_one_two_and_four_ranks_train_alike(self):
        for ranks in (1, 2, 4):
            self.train(f"ranks{ranks}", ranks=ranks)
        one = self.curve("ranks1")
        self.assertLess(one[40], one[1] - 1)  # it does learn
        for ranks in (2, 4):
            other = self.curve(f"ranks{ranks}")
            self.assertEqual(cursor(self.newest_checkpoint("ranks1")),
                             cursor(self.newest_checkpoint(f"ranks{ranks}")))
            self.assertEqual(one.keys(), other.keys())
            # The first loss comes from equal weights: it differs by the order of a float sum alone, while a
            # single other sample would move it by a thousandth.
            self.assertLessEqual(abs(one[1] - other[1]), 2e-6)
            for step, loss in one.items():
                self.assertLessEqual(abs(loss - other[step]), 1e-4, f"step {step} of {ranks} ranks")

    def test_dropout_does_not_depend_on_ranks_micro_batches_or_recomputation(self):
        dropout = ("model.dropout=0.1", "model.attention.dropout=0.3", "train.stop_step=10")
        self.train("whole", *dropout)
        whole = self.curve("whole")
        self.train("parts", *dropout, "train.micro_batch=2", ranks=2)
        self.train("recomputed", *dropout, "train.micro_batch=8", "train.recompute=true")
        for name in ("parts", "recomputed"):
            other = self.curve(name)
            self.assertLessEqual(abs(whole[1] - other[1]), 2e-6, name)
            for step, loss in whole.items():
                self.assertLessEqual(abs(loss - other[step]), 1e-4, f"step {step} of {name}")

    def test_equal_runs_give_equal_bits(self):
        for name in ("first", "second"):
            self.train(name, "train.stop_step=10", ranks=2)
        self.assertEqual(self.curve("first"), self.curve("second"))

    def test_a_sharded_optimizer_changes_no_number(self):
        self.train("whole", ranks=2)
        self.train("sharded", "train.shard_optimizer=true", ranks=2)
        whole, sharded = self.curve("whole"), self.curve("sharded")
        self.assertEqual(whole.keys(), sharded.keys())
        for step, loss in whole.items():
            # Only the order in which squares add up to the gradient's norm differs.
            self.assertLessEqual(abs(loss - sharded[step]), 1e-6, f"step {step}")

    def test_sharded_checkpoints_go_on_without_shards_and_on_other_ranks(self):
        self.train("whole", "train.shard_optimizer=true", ranks=2)
        for ranks, stop, shards in ((2, 10, "true"), (2, 20, "true"), (None, 30, "true"), (4, 35, "true"), (2, 0, "false")):
            self.train("parts", "checkpoint.resume=auto", f"train.stop_step={stop}",
                       f"train.shard_optimizer={shards}", ranks=ranks)
        whole, parts = self.curve("whole"), self.curve("parts")
        self.assertEqual(whole.keys(), parts.keys())
        for step in range(1, 21):  # on the same ranks
            self.assertEqual(whole[step], parts[step], f"step {step}")
        for step, loss in whole.items():
            self.assertLessEqual(abs(loss - parts[step]), 1e-4, f"step {step}")

    def test_ranks_that_share_sequences_train_as_one(self):
        kinds = {"lightning": ("model.attention.lrpe=all", "model.attention.short_conv=3", "model.dropout=0.1"),
                 "hedgehog": ("model.learned_positions=true", "train.recompute=true"),
                 "nalaformer": ("model.attention.rope=true",)}
        for kind, more in kinds.items():
            keys = (f"model.attention.kind={kind}", *more, "train.stop_step=20", "run.force_new=true")
            self.train("one", *keys)
            one = self.curve("one")
            self.assertLess(one[20], one[1] - 0.3)  # it does learn
            # Groups of two and of four ranks, and two groups of two.
            for ranks, sharing in ((2, 2), (4, 4), (4, 2)):
                name = f"{kind} on {ranks} ranks in groups of {sharing}"
                self.train("shared", *keys, f"train.context_parallel={sharing}", ranks=ranks)
                shared = self.curve("shared")
                self.assertEqual(one.keys(), shared.keys())
                self.assertLessEqual(abs(one[1] - shared[1]), 4e-6, name)
                for step, loss in one.items():
                    self.assertLessEqual(abs(loss - shared[step]), 3e-4, f"step {step} of {name}")
                val_loss = [self.curve(run, "val/loss")[20] for run in ("one", "shared")]
                self.assertLessEqual(abs(val_loss[0] - val_loss[1]), 3e-4, name)

    def test_three_ranks_share_sequences(self):
        keys = ("model.attention.kind=lightning", "data.seq_len=36", "train.batch_tokens=576", "train.stop_step=10")
        self.train("one", *keys)
        self.train("three", *keys, "train.context_parallel=3", ranks=3)
        one, three = self.curve("one"), self.curve("three")
        for step, loss in one.items():
            self.assertLessEqual(abs(loss - three[step]), 1e-4, f"step {step}")

    def test_shared_sequences_repeat_their_bits_and_go_on_elsewhere(self):
        keys = ("model.attention.kind=hedgehog", "model.attention.short_conv=2", "model.dropout=0.1")
        for name in ("first", "second"):
            self.train(name, *keys, "train.context_parallel=2", ranks=2)
        first = self.curve("first")
        self.assertEqual(first, self.curve("second"))
        for ranks, sharing, stop in ((2, 2, 10), (4, 2, 20), (None, 1, 30), (2, 2, 0)):
            self.train("parts", *keys, "checkpoint.resume=auto", f"train.context_parallel={sharing}",
                       f"train.stop_step={stop}", ranks=ranks)
        parts = self.curve("parts")
        self.assertEqual(first.keys(), parts.keys())
        for step, loss in first.items():
            self.assertLessEqual(abs(loss - parts[step]), 3e-4, f"step {step}")

    def test_what_cannot_share_sequences_is_refused(self):
        cases = {"layer 1 has softmax attention, whose keys and values would have to travel between ranks":
                 ("model.attention.kind=lightning", "model.attention.layers=[lightning, near]",
                  "model.attention.near.kind=softmax"),
                 'layer 0 has hedgehog attention, whose feature_map = "exp"':
                 ("model.attention.kind=hedgehog", "model.attention.feature_map=exp"),
                 "short_conv = 16 looks back further than one segment":
                 ("model.attention.kind=lightning", "model.attention.short_conv=16")}
        for words, keys in cases.items():
            with self.subTest(words=words):
                done = self.train("wrong", *keys, "train.context_parallel=2", ranks=2, status=2)
                self.assertIn(words, done.stdout)
                self.assertIn(words, self.headway("plan", self.recipe, "-n", 2, *keys, "train.context_parallel=2").stdout)
        self.assertIn("expected a divisor of the number of ranks, which is 1",
                      self.train("wrong", "train.context_parallel=2", status=2).stdout)
        self.assertFalse((self.folder / "runs" / "wrong").exists())

    def test_a_killed_rank_ends_the_job_within_seconds(self):
        process = self.start("killed", "train.max_steps=1000000", ranks=2)
        self.wait_for_step(process, "killed", 3)
        pids = self.ranks_of(process)
        self.assertEqual(len(pids), 2)
        os.kill(pids[1], signal.SIGKILL)
        self.assertNotEqual(self.assert_ends(process, 20), 0)
        self.assertFalse([pid for pid in pids if self.is_alive(pid)])
        self.assertEqual(self.record("killed")["status"], "running")  # it could not say otherwise

    def test_a_silent_rank_ends_the_job_at_the_deadline(self):
        process = self.start("silent", "train.max_steps=1000000", "comm.timeout_s=3", ranks=2)
        self.wait_for_step(process, "silent", 3)
        pids = self.ranks_of(process)
        os.kill(pids[1], signal.SIGSTOP)
        try:
            self.assertEqual(self.assert_ends(process, 30), 8, self.output_of("silent"))
        finally:
            for pid in pids:
                if self.is_alive(pid):
                    os.kill(pid, signal.SIGKILL)
        self.assertIn("has not finished within 3 s", self.output_of("silent"))


if __name__ == "__main__":
    unittest.main()
