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

    def test_a_torn_file_does_not_stop_the_report(self):
        sweep = self.write_sweep()
        self.assertEqual(self.headway("sweep", sweep).returncode, 0)
        runs = self.folder / "sweeps" / "small" / "runs"
        (runs / "plain-seed1" / "recipe.resolved.toml").write_text("[model")
        (runs / "plain-seed2" / "run.json").write_text('{"status": 3')
        done = self.headway("report", sweep)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("plain-seed1/recipe.resolved.toml", done.stdout)
        statuses = {arm: row["status"] for arm, row in self.results().items()}
        self.assertEqual(statuses, {"plain-seed1": "unreadable", "plain-seed2": "unreadable", "narrow-seed1": "finished",
                                    "narrow-seed2": "finished"})

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
        recipe = 'recipe = "tiny.toml"\n'
        wants_recipe = 'has no recipe: expected recipe = "<path>", relative to this file'
        wants_list = "expected a list of one or more values"
        for text, says in (
                (SWEEP.replace(recipe, "model.mlp_dim = 64\n", 1), f":8:7: runs.plain {wants_recipe}"),
                (SWEEP + "[runs.new]\n", f":14:7: runs.new {wants_recipe}"),
                (SWEEP + "[runs.new.model]\n", ":14:11: runs.new.model is empty: expected keys in it"),
                (SWEEP + '[runs."b.c"]\n' + recipe, f":15:1: runs.b {wants_recipe}"),
                (SWEEP + '[runs.""]\n' + recipe, ":15:1: a run has no name"),
                (SWEEP + "[run.new]\n", ":14:6: run.new means nothing in a sweep"),
                (SWEEP.replace("[grid]", "[grit]"), ":13:5: grit.run.seed means nothing in a sweep"),
                (SWEEP.replace("log.every_steps", "log.every_stepz"),
                 ":6:5: unknown key log.every_stepz = 1"),
                (SWEEP.replace("stop_step = 6", 'stop_step = "x"'),
                 ':5:7: train.stop_step = "x": expected an'),
                (SWEEP.replace("[1, 2]", "1"), f":13:5: grid.run.seed = 1: {wants_list}"),
                (SWEEP.replace("[1, 2]", "[]"), f":13:5: grid.run.seed = []: {wants_list}"),
                (SWEEP.replace("[1, 2]", "[1, 1]"), "two arms are called narrow-seed1"),
                (SWEEP + '[runs.a-b]\n' + recipe + '[runs.a_b]\n' + recipe, "two arms are called a_b-seed1"),
                (SWEEP.replace("model.attention.window", "run.seed"),
                 ":11:5: run.seed = 4 is also in the grid"),
                (SWEEP.replace("train.stop_step", "run.seed"), ":5:5: run.seed = 6 is also in the grid"),
                (SWEEP.replace("train.stop_step = 6", "run.name = 6"),
                 ":5:5: run.name = 6: expected no such key"),
                (SWEEP.replace('"tiny', '"no', 1), ':8:1: runs.plain.recipe = "no.toml": there is no file'),
                (SWEEP.replace('"tiny.toml"', "3", 1),
                 ":8:1: runs.plain.recipe = 3: expected a text in quotes"),
                (SWEEP.replace('"small"', '"../x"'), ':2:1: name = "../x": expected the name of a folder'),
                (SWEEP.replace('"small"', '""'), ':2:1: name = "": expected a text in quotes'),
                ("[runs]\n[grid]\nrun.seed = [1]\n", " has no runs: expected a table such as [runs.softmax]")):
            with self.subTest(says=says):
                done = self.headway("sweep", self.write_sweep(text))
                self.assertEqual(done.returncode, 2, done.stdout)
                self.assertEqual(done.stdout.count("\n"), 1, done.stdout)
                self.assertIn("small.sweep.toml" + says if says[0] in ": " else says, done.stdout)
        missing = self.headway("sweep", "none.toml")
        self.assertEqual((missing.returncode, missing.stdout), (2, "headway: there is no sweep none.toml\n"))
        self.assertFalse((self.folder / "sweeps").exists())


if __name__ == "__main__":
    unittest.main()
