"""A softmax model becomes a linear one: its attention weights are taught to feature maps, then swapped."""
import re
import unittest

from runs import Runs, digests

HEDGEHOG = ("model.attention.kind=hedgehog", "model.attention.num_heads=2")
TRANSFER = (*HEDGEHOG, "model.attention.transfer=true", "train.only=[query_map, key_map]", "checkpoint.init=runs/teacher",
            "optim.weight_decay=0", "schedule.kind=constant", "optim.lr=0.03")


class Conversion(Runs):
    def loss_at_swap(self, start):
        """Validation loss of linear attention with the weights of a run."""
        self.train("swapped", *HEDGEHOG, f"checkpoint.init=runs/{start}", "optim.lr=0", "train.stop_step=1",
                   "run.force_new=true")
        return self.curve("swapped", "val/loss")[1]

    def test_maps_learn_the_weights_and_nothing_else_changes(self):
        # Before its attention has learnt anything, it does not matter what replaces it.
        self.train("teacher", "train.max_steps=400")
        said = self.train("taught", *TRANSFER).stdout
        self.assertRegex(said, r"began with 20 of 24 parameter tensors from \S+; random: \S+/attention/\w+_map/weight")
        divergence = self.curve("taught", "train/transfer_divergence")
        self.assertLess(divergence[40], 0.5 * divergence[1])
        self.assertRegex(said, r"transfer_divergence \d")

        teacher, taught = (digests(self.newest_checkpoint(name), "model") for name in ("teacher", "taught"))
        self.assertEqual(teacher, {path: digest for path, digest in taught.items() if path in teacher})
        moments = digests(self.newest_checkpoint("taught"), "optim")
        self.assertEqual(len(moments), 2 * 4)
        self.assertTrue(all(re.search("_map/", path) for path in moments))

        teacher_loss = self.curve("teacher", "val/loss")[400]
        self.assertEqual(self.curve("taught", "val/loss")[40], teacher_loss)
        untaught, swapped = self.loss_at_swap("teacher"), self.loss_at_swap("taught")
        self.assertLess(swapped - teacher_loss, 0.7 * (untaught - teacher_loss))
        self.train("converted", *HEDGEHOG, "checkpoint.init=runs/taught", "optim.lr=0.002")
        self.assertLess(self.curve("converted", "val/loss")[40], swapped)

    def test_grouped_queries_are_converted(self):
        heads = ("model.attention.num_heads=4", "model.attention.num_kv_heads=2", "model.attention.qk_norm=true")
        self.train("teacher", *heads)
        said = self.train("taught", *TRANSFER, *heads).stdout
        self.assertRegex(said, r"began with \d+ of \d+ parameter tensors from \S+; random: \S+/attention/\w+_map/weight")
        divergence = self.curve("taught", "train/transfer_divergence")
        self.assertLess(divergence[40], 0.5 * divergence[1])
        teacher = self.curve("teacher", "val/loss")[40]
        self.assertEqual(self.curve("taught", "val/loss")[40], teacher)
        said = self.train("converted", *HEDGEHOG, *heads, "checkpoint.init=runs/taught", "optim.lr=0.002").stdout
        self.assertNotIn("random:", said)
        self.assertLess(self.curve("converted", "val/loss")[40], teacher)

    def test_a_transfer_resumes_with_equal_bits(self):
        self.train("teacher", "train.stop_step=10")
        self.train("whole", *TRANSFER, "train.stop_step=8", ranks=2)
        for stop in (3, 8):
            self.train("parts", *TRANSFER, f"train.stop_step={stop}", "checkpoint.resume=auto", ranks=2)
        key = "train/transfer_divergence"
        self.assertEqual(self.curve("whole", key), self.curve("parts", key))
        whole, parts = (digests(self.newest_checkpoint(name), "model", "optim") for name in ("whole", "parts"))
        self.assertEqual(whole, parts)

    def test_mistakes_are_named(self):
        self.train("teacher", "train.stop_step=2")
        for overrides, status, words in (
                (("checkpoint.init=runs/nowhere",), 4, "runs/nowhere"),
                (("checkpoint.init=runs/teacher", "model.model_dim=64"), 4, "has the shape"),
                (("train.only=[query_mop]",), 2, 'train.only names "query_mop", but no parameter')):
            with self.subTest(words=words):
                self.assertIn(words, self.train("wrong", *overrides, status=status).stdout)
        self.assertFalse((self.folder / "runs" / "wrong").exists())


if __name__ == "__main__":
    unittest.main()
