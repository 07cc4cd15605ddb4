"""A run that was interrupted ends with the same bits as one that was not."""
import re
import unittest

from runs import Runs, cursor, digests

SAVED = ("model", "optim")


class Resume(Runs):
    def assert_same_run(self, whole, parts):
        self.assertEqual(self.curve(whole), self.curve(parts))
        self.assertEqual(self.curve(whole, "train/grad_norm"), self.curve(parts, "train/grad_norm"))
        first, second = self.newest_checkpoint(whole), self.newest_checkpoint(parts)
        self.assertEqual(first.name, second.name)
        self.assertGreater(len(digests(first, *SAVED)), 10)
        self.assertEqual(digests(first, *SAVED), digests(second, *SAVED))
        self.assertEqual(cursor(first), cursor(second))

    def check_exact(self, ranks, *overrides):
        self.train("whole", *overrides, ranks=ranks)
        self.assertEqual(sorted(self.curve("whole")), list(range(1, 41)))
        for stop in (20, 0):
            self.train("parts", "checkpoint.resume=auto", f"train.stop_step={stop}", *overrides, ranks=ranks)
        self.assert_same_run("whole", "parts")

    def test_twenty_and_twenty_steps_equal_forty_on_one_rank(self):
        self.check_exact(None)

    def test_twenty_and_twenty_steps_equal_forty_on_two_ranks(self):
        self.check_exact(2)

    def test_three_interruptions_with_dropout_and_recomputation_change_no_bit(self):
        overrides = ("model.dropout=0.1", "model.attention.dropout=0.2", "train.recompute=true")
        self.train("whole", *overrides)
        for stop in (7, 19, 33, 0):
            self.train("parts", "checkpoint.resume=auto", f"train.stop_step={stop}", *overrides)
        self.assert_same_run("whole", "parts")

    def test_every_kind_of_attention_resumes_with_equal_bits(self):
        own_keys = {"dynamic_mask": ("top_w=5",), "moh": ("shared_heads=1",)}
        kinds = re.findall(r"^model\.attention\.kind = \"(\w+)\"", self.headway("train", "--help-attention").stdout, re.MULTILINE)
        self.assertGreaterEqual(len(kinds), 9)
        for kind in kinds:
            with self.subTest(kind=kind):
                keys = (f"kind={kind}", "num_heads=4", *own_keys.get(kind, ()))
                overrides = [f"model.attention.{key}" for key in keys]
                self.train(f"{kind}-whole", *overrides, "train.stop_step=10")
                for stop in (4, 10):
                    self.train(f"{kind}-parts", "checkpoint.resume=auto", f"train.stop_step={stop}", *overrides)
                self.assert_same_run(f"{kind}-whole", f"{kind}-parts")
                curve = self.curve(f"{kind}-whole")
                self.assertLess(curve[10], curve[1])

    def test_moving_windows_resume_exactly_across_epochs(self):
        overrides = ("data.max_bytes=20K", "train.max_steps=90", "schedule.warmup_steps=5", "data.val_fraction=0.5")
        self.train("whole", *overrides)
        for stop in (17, 55, 0):
            self.train("parts", "checkpoint.resume=auto", f"train.stop_step={stop}", *overrides)
        self.assert_same_run("whole", "parts")
        epochs = [row["progress/epoch"] for row in self.rows("whole")]
        self.assertGreater(epochs[-1], 3)

    def test_changing_the_number_of_ranks_keeps_the_samples(self):
        self.train("whole")
        for ranks, stop in ((None, 10), (2, 25), (4, 0)):
            self.train("parts", "checkpoint.resume=auto", f"train.stop_step={stop}", ranks=ranks)
        self.assertEqual(cursor(self.newest_checkpoint("whole")), cursor(self.newest_checkpoint("parts")))
        whole, parts = self.curve("whole"), self.curve("parts")
        self.assertEqual(whole.keys(), parts.keys())
        for step, loss in whole.items():
            # Sums over ranks round differently; other samples would move the loss by a hundredth.
            self.assertLessEqual(abs(loss - parts[step]), 1e-4, f"step {step}")

    def test_a_used_folder_is_neither_overwritten_nor_continued_unasked(self):
        self.train("once", "train.stop_step=3")
        before = self.newest_checkpoint("once").read_bytes()
        refused = self.train("once", status=2)
        self.assertIn("holds a run already", refused.stdout)
        self.assertEqual(self.newest_checkpoint("once").read_bytes(), before)
        self.train("once", "run.force_new=true", "train.stop_step=2")
        self.assertEqual(sorted(self.curve("once")), [1, 2])

    def test_another_seed_or_text_is_refused_by_name(self):
        self.train("once", "train.stop_step=3")
        for override, word in (("run.seed=2", "seed"), ("data.max_bytes=100K", "data"),
                               ("data.windows=fixed", 'data.windows: "moving" -> "fixed"'),
                               ("model.model_dim=64", "model")):
            refused = self.train("once", "checkpoint.resume=auto", override, status=4)
            self.assertIn(word, refused.stdout)


if __name__ == "__main__":
    unittest.main()
