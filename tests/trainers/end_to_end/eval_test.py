"""How much is evaluated, and that every way to evaluate the same weights prints the same digits."""
import csv
import gzip
import os
import re
import unittest

from runs import Runs

PRINTED = r"val/loss ([\d.]+) .*, over (\d+) tokens"


class Eval(Runs):
    def eval(self, *arguments, ranks=None):
        """(loss as printed, tokens)"""
        done = self.headway("eval", *arguments, ranks=ranks)
        self.assertEqual(done.returncode, 0, done.stdout)
        return re.search(PRINTED, done.stdout).groups()

    def held_out_tokens(self, name):
        return int(self.eval(f"runs/{name}", "eval.final_tokens=0")[1])

    def test_the_last_evaluation_reads_everything_and_eval_prints_its_digits(self):
        self.train("a", "eval.final_tokens=0", "train.stop_step=6", ranks=2)
        own = f"{self.curve('a', 'val/loss')[6]:.6f}"
        loss, tokens = self.eval("runs/a")
        self.assertEqual(loss, own)
        self.assertGreater(int(tokens), 5000)
        for ranks, *overrides in ((2,), (4, "train.micro_batch=2"), (None, "train.micro_batch=8"),
                                  (3, "train.micro_batch=1")):
            self.assertEqual(self.eval("runs/a", *overrides, ranks=ranks), (own, tokens))

    def test_final_tokens_bound_the_last_evaluation_and_eval_alike(self):
        self.train("a", "train.stop_step=3", "eval.final_tokens=1000")
        loss, tokens = self.eval("runs/a")
        self.assertEqual((loss, tokens), (f"{self.curve('a', 'val/loss')[3]:.6f}", str(32 * 32)))
        self.assertEqual(self.eval("runs/a", "eval.tokens=64")[1], "64")
        self.assertNotEqual(self.eval("runs/a", "eval.final_tokens=0"), (loss, tokens))

    def test_losses_by_position_average_to_the_loss(self):
        self.train("a", "train.stop_step=3", "eval.final_tokens=0")
        for ranks in (None, 2):
            path = self.folder / "positions.csv"
            loss, tokens = self.eval("runs/a", "--by-position", path, ranks=ranks)
            with open(path, encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            self.assertEqual([int(row["position"]) for row in rows], list(range(32)))
            counts = [int(row["tokens"]) for row in rows]
            self.assertEqual(sum(counts), int(tokens))
            mean = sum(float(row["loss"]) * count for row, count in zip(rows, counts)) / sum(counts)
            self.assertLess(abs(mean - float(loss)), 1e-5)
            path.unlink()
        done = self.headway("eval", "runs/a", "--by-position", self.folder / "absent" / "positions.csv")
        self.assertEqual(done.returncode, 7, done.stdout)

    def test_only_files_give_way_to_results(self):
        self.train("a", "train.stop_step=3")
        pipe, note, link = self.folder / "pipe", self.folder / "note.txt", self.folder / "link.csv"
        os.mkfifo(pipe)
        note.write_text("mine")
        link.symlink_to(note)
        for arguments in (("eval", "runs/a", "--by-position", pipe), ("export", "runs/a", "--out", pipe)):
            done = self.headway(*arguments)
            self.assertEqual(done.returncode, 7, done.stdout)
            self.assertIn("it exists and is no regular file", done.stdout)
            self.assertTrue(pipe.is_fifo())
        done = self.headway("export", "runs/a", "--out", note)
        self.assertEqual((done.returncode, note.read_text()), (2, "mine"), done.stdout)
        self.assertEqual(self.headway("eval", "runs/a", "--by-position", link).returncode, 0)
        self.assertTrue(link.is_symlink())
        self.assertIn("position,loss", note.read_text())

    def test_all_of_a_text_is_evaluated(self):
        self.train("a", "train.stop_step=3")
        text = self.folder / "other, text.txt"
        text.write_text("etaoin shrdlu " * 300)
        with gzip.open(self.folder / "packed.gz", "wb") as file:
            file.write(text.read_bytes())
        loss, tokens = self.eval("runs/a", "--text", text)
        self.assertEqual(int(tokens), len(text.read_bytes()))  # each but the first, and the end
        self.assertEqual(self.eval("runs/a", "--text", self.folder / "packed.gz", ranks=2), (loss, tokens))
        done = self.train("all", "data.val_fraction=1", status=3)
        self.assertIn("data.val_fraction = 1 holds out all of the data: nothing is left to train on", done.stdout)

    def test_what_is_no_text_is_refused(self):
        binary = self.folder / "text" / "99.txt"
        binary.write_bytes(b"PAR1\0\0")
        self.assertIn("99.txt is no text: it looks like a Parquet file", self.train("binary", status=3).stdout)
        done = self.headway("tokenize", binary, "--out", self.folder / "shards")
        self.assertEqual(done.returncode, 3, done.stdout)

    def test_learned_positions_bound_prompts_and_say_where_a_text_ends(self):
        learned = ("model.learned_positions=true", "model.attention.rope=false")
        done = self.train("long", *learned, "generate.tokens=5", f"generate.prompt={'x' * 33}", status=2)
        self.assertIn("generate.prompt has 33 tokens but the model has 32 positions", done.stdout)
        self.assertNotIn("step 1/", done.stdout)
        said = self.train("short", *learned, "train.stop_step=2", "generate.tokens=50", "generate.prompt=abc").stdout
        self.assertIn("the sample ends at the last of the model's 32 positions", said)
        done = self.headway("generate", "runs/short", "--prompt", "x" * 40)
        self.assertEqual(done.returncode, 2, done.stdout)
        self.assertNotIn("xxxx", done.stdout)

    def test_evaluations_on_the_way_read_eval_tokens(self):
        said = self.train("a", "train.stop_step=4", "eval.every_steps=2", "eval.tokens=300", "eval.final_tokens=0").stdout
        self.assertRegex(said, r"step 2/4 \| val loss .* \| 320 tokens")
        self.assertNotIn("| 320 tokens", said[said.index("step 4/4 | val"):])
        self.assertEqual(sorted(self.curve("a", "val/loss")), [2, 4])

    def test_a_last_evaluation_that_is_missing_comes_when_the_run_is_resumed(self):
        # As a run leaves it that was asked to stop during its last step.
        self.train("a", "train.stop_step=3")
        path = self.folder / "runs" / "a" / "metrics.jsonl"
        losses = self.curve("a", "val/loss")
        path.write_text("".join(line for line in path.read_text().splitlines(True) if "val/loss" not in line))
        for _ in range(2):
            self.train("a", "train.stop_step=3", "checkpoint.resume=auto")
            self.assertEqual(self.curve("a", "val/loss"), losses)

    def test_no_number_of_micro_batches_is_taken_for_a_number_of_tokens(self):
        said = self.train("a", "eval.batches=4", status=2).stdout
        self.assertIn("unknown key eval.batches = 4: `batches` is eval.tokens, in tokens of held-out text, here", said)

    def test_the_best_checkpoint_is_kept_and_used(self):
        # A rate that rises late makes the loss worse again.
        self.train("a", "checkpoint.keep_best=true", "eval.every_steps=4", "train.max_steps=24", "optim.lr=3",
                   "train.grad_clip=0", "eval.tokens=0", "eval.final_tokens=0", "schedule.kind=constant",
                   "schedule.warmup_steps=23", "checkpoint.keep_last=1")
        losses = self.curve("a", "val/loss")
        best = min(losses, key=losses.get)
        self.assertNotIn(best, (4, 24))
        self.assertEqual(self.eval("runs/a", "--best", ranks=2)[0], f"{losses[best]:.6f}")
        self.assertEqual(self.eval("runs/a")[0], f"{losses[24]:.6f}")
        self.assertIn(f"(step {best})", self.headway("eval", "runs/a/checkpoints/best.h5").stdout)
        self.assertEqual(self.headway("generate", "runs/a", "--best", "--tokens", 5).returncode, 0)
        done = self.headway("export", "runs/a", "--best", "--out", "best-weights.h5")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(self.eval("best-weights.h5", f"data.text={self.folder}/text/*.txt")[0], f"{losses[best]:.6f}")

    def test_the_best_is_judged_by_the_same_sequences_at_the_end(self):
        said = self.train("a", "checkpoint.keep_best=true", "train.stop_step=2", "eval.every_steps=1", "eval.tokens=64",
                          "eval.final_tokens=0").stdout
        self.assertEqual(said.count("best.h5"), 2, said)
        self.assertEqual(sorted(self.curve("a", "val/loss")), [1, 2])

    def test_a_best_checkpoint_is_evaluated_by_what_it_was_chosen_by(self):
        import h5py

        self.train("a", "checkpoint.keep_best=true", "train.stop_step=3", "eval.every_steps=1", "eval.tokens=64",
                   "eval.final_tokens=0")
        best = self.folder / "runs" / "a" / "checkpoints" / "best.h5"
        with h5py.File(best) as file:
            chosen_by = f"{file.attrs['val_loss']:.6f}"
        for arguments in (("runs/a", "--best"), (best,)):
            self.assertEqual(self.eval(*arguments), (chosen_by, "64"))
        self.assertEqual(self.eval("runs/a", "--best", "eval.final_tokens=0"), self.eval("runs/a"))
        self.assertEqual(self.eval("runs/a", "--best", "eval.tokens=32")[1], "32")
        self.assertEqual(self.eval("runs/a", "--best", "--text", self.folder / "text" / "00.txt"),
                         self.eval("runs/a", "--text", self.folder / "text" / "00.txt"))

    def test_text_that_is_not_there_is_a_sentence(self):
        self.train("a", "train.stop_step=1")
        empty = self.folder / "empty.txt"
        empty.touch()
        for arguments, says in (((empty,), "data.text: " + str(empty) + " holds no text"),
                                ((empty, self.folder / "text" / ".."), None),
                                (("",), 'data.text: "" names no file')):
            done = self.headway("eval", "runs/a", "--text", *arguments)
            self.assertEqual(done.returncode, 3 if says else 0, done.stdout)
            self.assertIn(says or "val/loss", done.stdout)
        self.assertIn("empty.txt holds no text", self.train("b", f"data.text={empty}", status=3).stdout)

    def test_a_resumed_run_keeps_a_better_checkpoint(self):
        overrides = ("checkpoint.keep_best=true", "eval.every_steps=1", "optim.lr=0.3", "train.grad_clip=0",
                     "schedule.kind=constant", "schedule.warmup_steps=0", "eval.final_tokens=0")
        self.train("a", "train.stop_step=4", *overrides)
        losses = self.curve("a", "val/loss")
        self.train("a", "train.stop_step=8", "checkpoint.resume=auto", *overrides)
        losses = self.curve("a", "val/loss")
        best = min(losses, key=losses.get)
        self.assertEqual(self.eval("runs/a", "--best")[0], f"{losses[best]:.6f}")

    def test_a_best_checkpoint_of_later_steps_is_set_aside_by_going_back(self):
        overrides = ("checkpoint.keep_best=true", "eval.every_steps=2", "checkpoint.every_steps=2", "checkpoint.keep_last=9")
        self.train("a", "train.stop_step=6", *overrides)
        checkpoints = self.folder / "runs" / "a" / "checkpoints"
        self.assertIn("(step 6)", self.headway("eval", "runs/a", "--best").stdout)
        self.train("a", f"checkpoint.resume={checkpoints}/step-00000002.h5", "train.stop_step=4", *overrides)
        self.assertIn("(step 6)", self.headway("eval", checkpoints / "aside" / "best.h5").stdout)
        self.assertIn("(step 4)", self.headway("eval", "runs/a", "--best").stdout)

    def test_a_best_checkpoint_that_does_not_exist_is_a_clear_error(self):
        self.train("a", "train.stop_step=1")
        for verb in ("eval", "generate", "export"):
            done = self.headway(verb, "runs/a", "--best")
            self.assertEqual(done.returncode, 4, done.stdout)
            self.assertIn("checkpoint.keep_best = true", done.stdout)
        done = self.headway("eval", self.newest_checkpoint("a"), "--best")
        self.assertEqual(done.returncode, 2, done.stdout)
        self.assertIn("expected the folder of a run", done.stdout)
        self.assertIn("data.val_fraction = 0",
                      self.train("b", "checkpoint.keep_best=true", "data.val_fraction=0", status=2).stdout)


if __name__ == "__main__":
    unittest.main()
