"""A sweep runs every arm once, survives a failed one and an interruption, and its report says what came out."""
import csv
import html.parser
import os
import signal
import subprocess
import time
import unittest

from runs import Runs

SWEEP = """
name = "small"
folder = "{folder}/sweeps"
[set]
train.stop_step = 6
log.every_steps = 1
[runs.plain]
recipe = "tiny.toml"
[runs.narrow]
recipe = "tiny.toml"
model.attention.window = 4
[grid]
run.seed = [1, 2]
"""


class Balance(html.parser.HTMLParser):
    """Opened and closed tags must match."""

    VOID = {"meta", "line", "rect", "polyline"}

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID or tag == "polyline":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text.append(data)


class Sweep(Runs):
    def write_sweep(self, text=SWEEP, more=""):
        return self.write_recipe(text.format(folder=self.folder) + more, "small.sweep.toml")

    def results(self):
        with open(self.folder / "sweeps" / "small" / "results.csv", encoding="utf-8") as file:
            return {row["arm"]: row for row in csv.DictReader(file)}

    def test_every_arm_runs_once_and_the_report_compares_them(self):
        sweep = self.write_sweep()
        first = self.headway("sweep", sweep)
        self.assertEqual(first.returncode, 0, first.stdout)
        rows = self.results()
        self.assertEqual(sorted(rows), ["narrow-seed1", "narrow-seed2", "plain-seed1", "plain-seed2"])
        for row in rows.values():
            self.assertEqual(row["status"], "finished")
            self.assertGreater(float(row["val_loss"]), 0)
            self.assertGreater(int(float(row["parameters"])), 1000)
        self.assertNotEqual(rows["plain-seed1"]["val_loss"], rows["plain-seed2"]["val_loss"])
        page = (self.folder / "sweeps" / "small" / "report.html").read_text(encoding="utf-8")
        parser = Balance()
        parser.feed(page)
        self.assertEqual(parser.open, [])
        text = "".join(parser.text)
        for word in ("small", "4 of 4 arms finished", "plain", "narrow", "val loss", "TFLOP"):
            self.assertIn(word, text)
        self.assertEqual(page.count("<polyline"), 3 * 4)
        self.assertNotRegex(page, "(src|href)=")  # nothing from elsewhere
        again = self.headway("sweep", sweep)
        self.assertEqual(again.stdout.count("is finished already"), 4)

    def test_a_failed_arm_does_not_stop_the_others(self):
        sweep = self.write_sweep(more='[runs.broken]\nrecipe = "tiny.toml"\nmodel.init_std = 0\nmodel.norm_eps = 0\n')
        done = self.headway("sweep", sweep)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("broken-seed1: exit status 6", done.stdout)
        statuses = {arm: row["status"] for arm, row in self.results().items()}
        self.assertEqual(statuses["plain-seed2"], "finished")
        self.assertEqual(statuses["broken-seed1"], "failed")

    def test_an_interrupted_sweep_goes_on(self):
        sweep = self.write_sweep(SWEEP.replace("train.stop_step = 6", "train.max_steps = 400"))
        process = subprocess.Popen(self.command("sweep", sweep), cwd=self.folder, stdout=subprocess.PIPE, text=True)
        metrics = self.folder / "sweeps" / "small" / "runs" / "narrow-seed1" / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (metrics.exists() and len(metrics.read_text().splitlines()) > 3):
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 75, output)
        saved = len(metrics.read_text().splitlines())
        done = self.headway("sweep", sweep)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("narrow-seed1 goes on", done.stdout)
        self.assertGreater(len(metrics.read_text().splitlines()), saved)

    def test_a_mistake_is_one_sentence_before_anything_runs(self):
        for text, says in ((SWEEP.replace('recipe = "tiny.toml"', "model.mlp_dim = 64", 1), "has no recipe"),
                           (SWEEP.replace("log.every_steps", "log.every_stepz"), "every_stepz"),
                           (SWEEP.replace("[grid]", "[grit]"), "means nothing in a sweep"),
                           (SWEEP.replace("[1, 2]", "1"), "expected a list")):
            done = self.headway("sweep", self.write_sweep(text))
            self.assertEqual(done.returncode, 2, done.stdout)
            self.assertIn(says, done.stdout)
        self.assertFalse((self.folder / "sweeps").exists())


if __name__ == "__main__":
    unittest.main()
