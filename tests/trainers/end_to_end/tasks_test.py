"""Runs on synthetic tasks: their measure is the share of right answers."""
import re
import unittest

from runs import TASK, Runs, digests


class Tasks(Runs):
    def use(self, kind):
        self.recipe = self.write_recipe(TASK.format(kind=kind), f"{kind}.toml")

    def test_every_task_trains_and_reports_its_accuracy(self):
        for kind in ("copy", "mqar", "needle", "passkey"):
            with self.subTest(kind=kind):
                self.use(kind)
                said = self.train(kind).stdout
                self.assertRegex(said, rf"data task {kind} with 3 items")
                self.assertRegex(said, r"step 20/20 \| val loss .* \| accuracy [01]\.\d+ \| 90 tokens|"
                                       r"step 20/20 \| val loss .* \| accuracy [01]\.\d+ \| 89 tokens")
                loss = self.curve(kind)
                self.assertLess(loss[20], loss[1])
                accuracy, exact = (self.curve(kind, f"val/{name}")[20] for name in ("accuracy", "exact_match"))
                self.assertTrue(0 <= exact <= accuracy <= 1)
                evaluated = self.headway("eval", f"runs/{kind}", ranks=2).stdout
                self.assertEqual(float(re.search(r"val/accuracy ([\d.]+)", evaluated)[1]), round(accuracy, 6))

    def test_a_model_that_answers_at_random_is_right_as_often_as_chance(self):
        self.use("passkey")
        self.train("random", "optim.lr=0", "train.stop_step=1", "data.task.val_examples=4000")
        # 128 logits of an untrained model: whatever it prefers is one of ten digits or none of them.
        self.assertLessEqual(self.curve("random", "val/accuracy")[1], 0.15)

    def test_an_easy_task_is_solved(self):
        self.use("copy")
        self.train("solved", "data.seq_len=8", "data.task.items=2", "train.max_steps=300", "optim.lr=5e-3")
        self.assertGreaterEqual(self.curve("solved", "val/accuracy")[300], 0.95)
        self.assertGreaterEqual(self.curve("solved", "val/exact_match")[300], 0.9)

    def test_resuming_changes_no_bit_on_any_number_of_ranks(self):
        self.use("mqar")
        self.train("whole", ranks=2)
        for stop in (7, 20):
            self.train("parts", "checkpoint.resume=auto", f"train.stop_step={stop}", ranks=2)
        whole, parts = (digests(self.newest_checkpoint(name), "model", "optim") for name in ("whole", "parts"))
        self.assertEqual(whole, parts)
        refused = self.train("parts", "checkpoint.resume=auto", "data.task.items=4", status=4)
        self.assertIn("digest of the training data", refused.stdout)

    def test_a_trained_model_is_measured_at_depths_and_lengths(self):
        self.use("passkey")
        self.train("grid", "train.stop_step=1")
        for depth in ("0", "0.5", "1"):
            done = self.headway("eval", "runs/grid", f"data.task.depth={depth}", "data.seq_len=48")
            self.assertRegex(done.stdout, r"val/accuracy [01]\.\d+, val/exact_match [01]\.\d+, over 90 tokens")

    def test_mistakes_are_named(self):
        self.use("mqar")
        self.assertIn("data.task.items = 9: expected at most 8 for mqar", self.train("a", "data.task.items=9", status=2).stdout)
        self.assertIn("data.task.depth = 0.5: expected -1 for mqar", self.train("a", "data.task.depth=0.5", status=2).stdout)
        planned = self.headway("plan", self.recipe, "data.task.items=9")
        self.assertEqual(planned.returncode, 2)
        self.assertIn("data.task.items = 9: expected at most 8 for mqar", planned.stdout)
        self.assertIn("both set", self.train("a", "data.text=[x]", status=2).stdout)
        self.assertIn("data.task.kind = mqra: expected one of", self.train("a", "data.task.kind=mqra", status=2).stdout)
        self.train("a", "train.stop_step=1")
        done = self.headway("generate", "runs/a", "--prompt", "hello")
        self.assertEqual(done.returncode, 3, done.stdout)
        self.assertIn('"hello" is no token: expected ids from 0 to 127', done.stdout)
        done = self.headway("generate", "runs/a", "--prompt", "1 40 2 41 1", "--tokens", "3")
        self.assertRegex(done.stdout, r"( \d+){3}")


if __name__ == "__main__":
    unittest.main()
