"""A sweep runs every arm once, survives a failed one and an interruption, and its report says what came out."""
import csv
import html.parser
import math
import os
import re
import signal
import subprocess
import time
import unittest

from runs import TASK, Runs

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

    VOID = {"meta", "line", "rect", "polyline", "polygon"}

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

    def table(self, output):
        """Cells of the table that a sweep ends with, its head included; no cell has two blanks in a row."""
        lines = output[output.rindex("\nrun ") + 1:].split("report: ")[0].splitlines()
        return [re.split("  +", line) for line in lines]

    def test_a_table_of_kinds_runs_every_kind_of_attention(self):
        kinds = re.findall(r'^model\.attention\.kind = "(\w+)"', self.headway("train", "--help-attention").stdout,
                           re.MULTILINE)
        for kind in kinds:
            (self.folder / f"{kind}.txt").write_text("A text for this kind alone. " * 20, encoding="utf-8")
        sweep = self.write_recipe("""
name = "small"
folder = "FOLDER/sweeps"
[set]
train.stop_step = 1
[kinds]
recipe = "tiny.toml"
model.attention.kind = "{kind}"
data.text = ["FOLDER/text/*.txt", "FOLDER/{kind}.txt"]
[runs.moh]
model.attention.num_heads = 8
[runs.wide]
recipe = "tiny.toml"
model.mlp_dim = 256
""".replace("FOLDER", str(self.folder)), "small.sweep.toml")
        done = self.headway("sweep", sweep)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(list(self.results()), [*kinds, "wide"])
        for kind in kinds:
            resolved = (self.folder / "sweeps/small/runs" / kind / "recipe.resolved.toml").read_text()
            self.assertRegex(resolved, rf'kind = "{kind}"')
            self.assertIn(f"/{kind}.txt", resolved)

    def test_every_arm_runs_once_and_the_report_compares_them(self):
        sweep = self.write_sweep(SWEEP.replace("log.every_steps", "eval.every_steps = 3\nlog.every_steps"))
        first = self.headway("sweep", sweep)
        self.assertEqual(first.returncode, 0, first.stdout)
        rows = self.results()
        self.assertEqual(len(rows), 4)
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
        for word in ("small", "4 of 4 arms finished", "plain", "narrow", "val loss", "TFLOP", "CPU, ",
                     "model.attention.window = 4", "minus plain"):
            self.assertIn(word, text)
        self.assertEqual(page.count("<polyline"), 6 * 2)  # validation and training by three axes, of two runs
        self.assertEqual(page.count("<polygon"), 6 * 2)
        self.assertNotRegex(page, "(src|href)=")  # nothing from elsewhere
        again = self.headway("sweep", sweep)
        self.assertEqual(again.stdout.count("is finished already"), 4)
        self.assertEqual(self.table(again.stdout), self.table(first.stdout))

    def test_arms_run_in_the_order_of_the_file_and_say_what_they_reached(self):
        done = self.headway("sweep", self.write_sweep())
        self.assertEqual(done.returncode, 0, done.stdout)
        arms = ["plain-seed1", "plain-seed2", "narrow-seed1", "narrow-seed2"]
        self.assertEqual(re.findall(r"\] (\S+) starts", done.stdout), arms)
        self.assertEqual(list(self.results()), arms)
        losses = re.findall(r"\] (\S+) \| validation loss (\d+\.\d{4}) \| took", done.stdout)
        self.assertEqual(losses, [(arm, f"{float(self.results()[arm]['val_loss']):.4f}") for arm in arms])
        self.assertEqual([row[0] for row in self.table(done.stdout)], ["run", "plain", "narrow"])
        self.assertLess(done.stdout.rindex("took"), done.stdout.index("minus plain"))  # the table comes last

    def test_runs_are_compared_with_their_baseline_in_pairs(self):
        done = self.headway("sweep", self.write_sweep('baseline = "narrow"\n' + SWEEP))
        self.assertEqual(done.returncode, 0, done.stdout)
        rows = self.results()
        differences = [float(rows[f"plain-seed{seed}"]["val_loss"]) - float(rows[f"narrow-seed{seed}"]["val_loss"])
                       for seed in (1, 2)]
        mean, half = sum(differences) / 2, abs(differences[0] - differences[1]) / 2
        reach = 12.7062047 * half  # Student's t of one degree of freedom
        for seed in (1, 2):
            row = rows[f"plain-seed{seed}"]
            self.assertEqual(row["paired_with"], f"narrow-seed{seed}")
            self.assertEqual(row["seed"], str(seed))
            self.assertAlmostEqual(float(row["val_loss_difference"]), differences[seed - 1], 12)
            self.assertEqual(row["val_loss_pairs"], "2")
            self.assertAlmostEqual(float(row["val_loss_mean_difference"]), mean, 12)
            self.assertAlmostEqual(float(row["val_loss_low"]), mean - reach, 6)
            self.assertAlmostEqual(float(row["val_loss_high"]), mean + reach, 6)
            p = 1 - 2 / math.pi * math.atan(abs(mean) / half)
            self.assertAlmostEqual(float(row["val_loss_p"]), p, 9)
            self.assertAlmostEqual(float(row["val_loss_p_holm"]), p, 9)  # of one test
            self.assertEqual(rows[f"narrow-seed{seed}"]["val_loss_pairs"], "")
        table = {row[0]: row for row in self.table(done.stdout)}
        self.assertIn("baseline", table["narrow"])
        self.assertIn(f"{mean:+.4f}", table["plain"])

    def test_arms_of_one_seed_have_no_interval(self):
        done = self.headway("sweep", self.write_sweep(SWEEP.replace("[1, 2]", "[1]")))
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertRegex(done.stdout, r"(?m)^narrow +1 .*one pair +1$")
        self.assertEqual(self.results()["narrow-seed1"]["val_loss_p"], "")

    def test_a_column_that_does_not_apply_has_no_best(self):
        linear = '[runs.linear]\nrecipe = "tiny.toml"\nmodel.attention.kind = "lightning"\n'
        done = self.headway("sweep", self.write_sweep(SWEEP.replace("[1, 2]", "[1]"), more=linear))
        self.assertEqual(done.returncode, 0, done.stdout)
        page = (self.folder / "sweeps" / "small" / "report.html").read_text(encoding="utf-8")
        figures = re.search('<table class="figures">(.*?)</table>', page).group(1)
        titles = re.findall("<th>(.*?)</th>", figures.split("</thead>")[0])
        rows = {row[0]: dict(zip(titles[1:], row[1:])) for row in
                (re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row) for row in figures.split("<tr>")[2:])}
        self.assertEqual([rows[run]["cache bytes per token"] for run in ("plain", "linear")], ["512", "n/a"])
        self.assertEqual([rows[run]["state bytes"] for run in ("plain", "linear")], ["n/a", "4,096"])
        self.assertRegex(rows["plain"]["parameters"], r"^\d\d,\d{3}$")
        self.assertNotIn('class="best">n/a', figures)
        self.assertNotIn('class="best">0<', figures)
        self.assertEqual(self.results()["plain-seed1"]["state_bytes"], "")

    def test_arms_that_were_judged_on_other_text_are_not_paired(self):
        (self.folder / "text" / "more.txt").write_text("other words\n" * 500)
        other = ('[runs.other]\nrecipe = "tiny.toml"\ndata.text = ["{0}/text/0*.txt"]\n'
                 '[runs.split]\nrecipe = "tiny.toml"\ndata.val_fraction = 0.8\n').format(self.folder)
        done = self.headway("sweep", self.write_sweep(SWEEP.replace("[1, 2]", "[1]"), more=other))
        self.assertEqual(done.returncode, 0, done.stdout)
        for run in ("other", "split"):
            self.assertRegex(done.stdout, f"{run}-seed1 is not paired with plain-seed1: their "
                             "(held-out|training) texts differ")
            self.assertRegex(done.stdout, rf"(?m)^{run} .*no pairs +0$")
            self.assertEqual(self.results()[f"{run}-seed1"]["paired_with"], "")
        self.assertEqual(self.results()["narrow-seed1"]["paired_with"], "plain-seed1")
        page = (self.folder / "sweeps" / "small" / "report.html").read_text(encoding="utf-8")
        self.assertIn("other-seed1 is not paired with plain-seed1", page)

    def test_an_arm_that_reads_other_text_is_named_when_it_starts(self):
        more = '[runs.other]\nrecipe = "tiny.toml"\ndata.text = ["{0}/text/0*.txt"]\n'.format(self.folder)
        sweep = self.write_sweep(SWEEP.replace("[1, 2]", "[1]"), more=more)
        for state in ("starts", "is finished already"):
            said = self.headway("sweep", sweep).stdout
            lines = said.splitlines()
            notes = [line for line in lines if line.startswith("note: ")]
            self.assertEqual(len(notes), 1, said)
            self.assertRegex(notes[0], "^note: other-seed1 cannot be compared with plain-seed1: their held-out texts "
                             r"differ \([0-9a-f]{16} and [0-9a-f]{16}\)$")
            self.assertIn(f"other-seed1 {state}", lines[lines.index(notes[0]) - 1])

    def test_seeds_of_a_task_learn_from_other_examples_without_a_note(self):
        task = ('name = "task"\nfolder = "{folder}/sweeps"\n[runs.task]\nrecipe = "task.toml"\n'
                "[grid]\nrun.seed = [1, 2]\n")
        self.write_recipe(TASK.format(kind="mqar"), "task.toml")
        said = self.headway("sweep", self.write_sweep(task)).stdout
        self.assertIn("task-seed2", said)
        self.assertNotIn("note: ", said)

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
        metrics = self.folder / "sweeps" / "small" / "runs" / "plain-seed1" / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (metrics.exists() and len(metrics.read_text().splitlines()) > 3):
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 75, output)
        saved = len(metrics.read_text().splitlines())
        done = self.headway("sweep", sweep)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("plain-seed1 goes on", done.stdout)
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
                (SWEEP.replace("[1, 2]", "[1, 1]"), "two arms are called plain-seed1"),
                (SWEEP + '[runs.a-b]\n' + recipe + '[runs.a_b]\n' + recipe, "two arms are called a_b-seed1"),
                (SWEEP.replace("model.attention.window", "run.seed"),
                 ":11:5: run.seed = 4 is also in the grid"),
                (SWEEP.replace("train.stop_step", "run.seed"), ":5:5: run.seed = 6 is also in the grid"),
                (SWEEP.replace("train.stop_step = 6", "run.name = 6"),
                 ":5:5: run.name = 6: expected no such key"),
                (SWEEP.replace('"tiny', '"no', 1), ':8:1: runs.plain.recipe = "no.toml": there is no file'),
                (SWEEP.replace('"tiny.toml"', "3", 1),
                 ":8:1: runs.plain.recipe = 3: expected a text in quotes"),
                ('baseline = "other"\n' + SWEEP,
                 ':1:1: baseline = "other": expected the name of a run, one of plain, narrow'),
                ("baseline = 1\n" + SWEEP, ":1:1: baseline = 1: expected a text in quotes"),
                (SWEEP.replace('"small"', '"../x"'), ':2:1: name = "../x": expected the name of a folder'),
                (SWEEP.replace('"small"', '""'), ':2:1: name = "": expected a text in quotes'),
                ("[runs]\n[grid]\nrun.seed = [1]\n", " has no runs: expected a table such as [runs.softmax]")):
            with self.subTest(says=says):
                done = self.headway("sweep", self.write_sweep(text))
                self.assertEqual(done.returncode, 2, done.stdout)
                self.assertEqual(done.stdout.count("\n"), 1, done.stdout)
                self.assertIn("small.sweep.toml" + says if says[0] in ": " else says, done.stdout)
        several = (SWEEP.replace("stop_step", "stop_stepp") + '[runs.c]\n' + 'recipe = "tiny.toml"\nmodel.windo = 4\n'
                   + '[runs.d]\nrecipe = "tiny.toml"\nmodel.mlp_dimm = 4\n')
        done = self.headway("sweep", self.write_sweep(several))
        self.assertEqual((done.returncode, done.stdout.count("\n")), (2, 3), done.stdout)
        for key in ("train.stop_stepp", "model.windo", "model.mlp_dimm"):
            self.assertEqual(done.stdout.count(f"unknown key {key}"), 1, done.stdout)
        grid = "".join(f"optim.eps{i} = {list(range(10))}\n" for i in range(5))
        done = self.headway("sweep", self.write_sweep(SWEEP + grid))
        self.assertIn("the grid makes more than 10000 arms of 2 runs", done.stdout)
        missing = self.headway("sweep", "none.toml")
        self.assertEqual((missing.returncode, missing.stdout), (2, "headway: there is no sweep none.toml\n"))
        self.assertFalse((self.folder / "sweeps").exists())


if __name__ == "__main__":
    unittest.main()
