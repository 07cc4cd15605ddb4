"""What a run may do with a folder: one writer at a time, nothing deleted but a run, nothing lost by going on."""
import os
import re
import resource
import shutil
import signal
import subprocess
import threading
import time
import unittest

import h5py

from runs import Runs

ENDLESS = "train.max_steps=1000000"
RESUME = "checkpoint.resume=auto"


def flip_bytes(path):
    """One bit of the embedding, which its digest then contradicts."""
    with h5py.File(path, "r") as file:
        offset = file["model/embedding"].id.get_offset()
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def contents(folder):
    """{path: bytes} of everything below, but the lock, which names whoever looked last."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name != ".lock"}


class RunFolder(Runs):
    def run_folder(self, name):
        return self.folder / "runs" / name

    def refused(self, name, *overrides, status, says, ranks=None):
        """Such a start ends with this status and these words, and changes nothing."""
        before = contents(self.run_folder(name))
        done = self.train(name, *overrides, status=status, ranks=ranks)
        for words in [says] if isinstance(says, str) else says:
            self.assertIn(words, done.stdout)
        self.assertEqual(contents(self.run_folder(name)), before)
        return done.stdout

    def complaint(self, *arguments, status, says):
        done = self.headway("train", self.recipe, *arguments)
        self.assertEqual(done.returncode, status, done.stdout)
        self.assertIn(says, done.stdout)
        self.assertEqual(done.stdout.count("\n"), 1, done.stdout)

    # Checkpoints that cannot be read.

    def test_a_run_whose_checkpoints_cannot_be_read_does_not_start_over(self):
        self.train("once", "train.stop_step=6", "checkpoint.every_steps=3")
        for path in self.run_folder("once").glob("checkpoints/step-*.h5"):
            flip_bytes(path)
        for ranks in (None, 2):
            self.refused("once", RESUME, status=4, ranks=ranks,
                         says=("no checkpoint can be read", "step-00000003.h5", "step-00000006.h5"))

    def test_a_checkpoint_that_is_locked_for_a_moment_is_waited_for(self):
        self.train("once", "train.stop_step=6")
        locked = h5py.File(self.newest_checkpoint("once"), "r+")
        threading.Timer(2, locked.close).start()
        self.assertIn("at step 6", self.train("once", RESUME, "train.stop_step=7").stdout)

    def test_a_folder_without_checkpoints_begins_at_step_one(self):
        self.train("fresh", RESUME, "train.stop_step=2")
        self.assertEqual(sorted(self.curve("fresh")), [1, 2])

    # Recipes that differ from the checkpoint's.

    def test_another_model_is_refused_with_old_and_new_values(self):
        self.train("once", "train.stop_step=3")
        for override, change in (("model.attention.num_heads=4", "model.attention.num_heads: 2 -> 4"),
                                 ("model.attention.kind=gated", 'model.attention.kind: "softmax" -> "gated"'),
                                 ("model.attention.window=8", "model.attention.window: 0 -> 8"),
                                 ("model.attention.rope_theta=5e5", "model.attention.rope_theta: 10000.0 -> 500000.0"),
                                 ("model.norm_eps=0.1", "-> 0.1"), ("model.norm=layer_norm", "model.norm: "),
                                 ("model.mlp=glu", "model.mlp: "), ("model.dropout=0.5", "model.dropout: 0.0 -> 0.5"),
                                 ("run.seed=2", "run.seed: 1 -> 2"), ("data.seq_len=16", "data.seq_len: 32 -> 16"),
                                 ("data.max_bytes=100K", "digest of the training data")):
            with self.subTest(override=override):
                self.refused("once", RESUME, override, status=4, says=change)
        self.refused("once", RESUME, "model.dropout=0.5", "model.mlp=glu", status=4, ranks=2,
                     says=("model.dropout", "model.mlp"))

    def test_changes_of_the_training_need_permission_and_are_recorded(self):
        self.train("once", "train.stop_step=3")
        keys = {"optim.lr": "2e-2", "optim.betas": "[0.8, 0.9]", "schedule.kind": "linear", "train.batch_tokens": "1024",
                "train.max_steps": "50", "train.grad_clip": "2"}
        overrides = [f"{key}={value}" for key, value in keys.items()]
        self.refused("once", RESUME, *overrides, status=4, says=[f"{key}: " for key in keys])
        self.refused("once", RESUME, *overrides, "checkpoint.allow=[optim.lr]", status=4, says="optim.betas: ")
        allow = f"checkpoint.allow=[{', '.join(keys)}]"
        said = self.train("once", RESUME, *overrides, allow, "train.stop_step=5").stdout
        changes = self.record("once")["attempts"][-1]["changes"]
        self.assertEqual(sorted(change.split(":")[0] for change in changes), sorted(keys))
        self.assertIn("optim.lr: 0.01 -> 0.02", changes)
        self.assertIn("optim.lr: 0.01 -> 0.02", said)
        self.train("once", RESUME, *overrides, "train.stop_step=6")  # the checkpoint has them by now
        self.assertNotIn("changes", self.record("once")["attempts"][-1])

    def test_what_changes_no_update_is_free(self):
        self.train("once", "train.stop_step=3")
        self.train("once", RESUME, "train.stop_step=5", "train.micro_batch=2", "train.recompute=true", "log.every_steps=2",
                   "eval.every_steps=2", "checkpoint.keep_last=3", "comm.timeout_s=50", "train.on_nonfinite=skip")

    def test_permissions_are_checked(self):
        for key, says in (("optim.lrr", "which is no key of a recipe: did you mean optim.lr?"),
                          ("model.norm_eps", "which no run may change"),
                          ("log.every_steps", "which may change without permission")):
            self.complaint(f"checkpoint.allow=[{key}]", status=2, says=f"checkpoint.allow names {key}, {says}")

    def test_eval_changes_the_data_and_not_the_model(self):
        self.train("once", "train.stop_step=3")
        for overrides, status, says in (
                (["model.norm_eps=0.1"], 4, "model.norm_eps: "),
                (["model.attention.kind=gated"], 4, "model.attention.kind: "),
                (["model.attention.num_heads=4"], 4, "model.attention.num_heads: 2 -> 4"),
                (["optim.lr=1"], 2, "optim.lr = 1 has no effect"),
                (["data.seq_len=16", "eval.tokens=1", "model.attention.num_heads=2"], 0, "val/loss")):
            done = self.headway("eval", "runs/once", *overrides)
            self.assertEqual(done.returncode, status, done.stdout)
            self.assertIn(says, done.stdout)

    # One writer.

    def test_the_second_of_two_runs_in_a_folder_ends_with_status_7(self):
        first = self.start("busy", ENDLESS)
        self.wait_for_step(first, "busy", 3)
        for ranks in (None, 2):
            for overrides in ((), (RESUME,), ("run.force_new=true",)):
                done = self.train("busy", ENDLESS, *overrides, status=7, ranks=ranks)
                self.assertIn(f"runs/busy is in use by process {first.pid} on {os.uname().nodename}", done.stdout)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        last = max(self.curve("busy"))
        self.train("busy", ENDLESS, RESUME, f"train.stop_step={last + 2}")

    def test_two_sweeps_of_one_file_do_not_train_twice(self):
        sweep = self.write_recipe(f'folder = "{self.folder}/sweeps"\n[runs.a]\nrecipe = "tiny.toml"\n'
                                  'train.max_steps = 1000000\n', "busy.toml")
        with open(self.folder / "sweep.out", "w", encoding="utf-8") as log:
            first = subprocess.Popen(self.command("sweep", sweep), cwd=self.folder, stdout=log, stderr=subprocess.STDOUT)
        self.addCleanup(first.wait)
        self.addCleanup(first.kill)
        metrics = self.folder / "sweeps" / "busy" / "runs" / "a" / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text()):
            time.sleep(0.05)
        second = self.headway("sweep", sweep)
        self.assertEqual(second.returncode, 7, second.stdout)
        self.assertIn(f"is in use by process {first.pid}", second.stdout)
        first.send_signal(signal.SIGINT)
        self.assertEqual(first.wait(60), 75)

    # What is deleted.

    def test_only_a_run_is_replaced(self):
        foreign = self.run_folder("foreign")
        for sub in ("checkpoints", "logs", "samples"):
            (foreign / sub).mkdir(parents=True)
            (foreign / sub / "thesis.txt").write_text("years of work")
        self.refused("foreign", "run.force_new=true", status=2, says="run.json")
        (foreign / "run.json").write_text('{"status": 3}')
        self.refused("foreign", "run.force_new=true", status=2, says="status")
        shutil.rmtree(foreign)
        self.train("foreign", "run.force_new=true", "train.stop_step=1")

    def test_names_that_are_no_folder_of_their_own_are_refused(self):
        (self.folder / "checkpoints").mkdir()
        for name in ("..", ".", "", "a/b", "a\nb", "a\x1b[31m", "\x7f"):
            for more in ((), ("run.force_new=true",)):
                self.complaint(f"run.name={name}", *more, status=2, says="expected the name of a folder")
        self.assertTrue((self.folder / "checkpoints").exists())
        self.train("lr0.01..", "train.stop_step=1")

    def test_contradictory_wishes_are_a_usage_error(self):
        for arguments, says in ((("--resume", "--force-new"), "expected one of them"),
                                ((RESUME, "run.force_new=true"), "run.force_new = true and checkpoint.resume"),
                                (("checkpoint.resume=a.h5", "--force-new"), "run.force_new = true and checkpoint.resume"),
                                (("--resume", "checkpoint.resume=a.h5"), 'checkpoint.resume = "a.h5"'),
                                (("checkpoint.resume=a.h5", "checkpoint.init=b.h5"), "checkpoint.init")):
            self.complaint(*arguments, status=2, says=says)
        self.assertFalse((self.folder / "runs").exists())

    def test_a_run_that_fails_to_start_keeps_the_run_it_would_replace(self):
        self.train("once", "train.stop_step=3")
        self.refused("once", "run.force_new=true", "checkpoint.init=runs/nowhere", status=4, says="runs/nowhere")

    # Failures while it runs.

    def test_metrics_that_cannot_be_written_cost_no_step(self):
        self.train("limited", "train.stop_step=1")
        # Rows fill the file to its limit, which is above what a checkpoint needs.
        limit = self.newest_checkpoint("limited").stat().st_size + 64 * 1024
        metrics = self.run_folder("limited") / "metrics.jsonl"
        row = metrics.read_text().splitlines()[0] + "\n"
        metrics.write_text(row * (limit // len(row) - 4))

        def limit_files():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write then fails instead of ending the program
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        done = subprocess.run(self.command("train", self.recipe, "run.name=limited", RESUME), cwd=self.folder, timeout=120,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=limit_files, check=False)
        self.assertEqual(done.returncode, 7, done.stdout)
        self.assertIn("metrics.jsonl", done.stdout)
        saved = int(self.newest_checkpoint("limited").stem.split("-")[1])
        self.assertTrue(2 < saved < 40, done.stdout)

    def test_a_run_whose_checkpoints_are_gone_does_not_start_over(self):
        self.train("gone", "train.stop_step=3")
        shutil.rmtree(self.run_folder("gone") / "checkpoints")
        before = (self.run_folder("gone") / "metrics.jsonl").read_text()
        said = self.train("gone", "checkpoint.resume=auto", status=4).stdout
        self.assertIn("no checkpoint is there any more, although the run has saved some", said)
        self.assertEqual((self.run_folder("gone") / "metrics.jsonl").read_text(), before)

    def test_a_deleted_folder_is_noticed_at_the_next_row(self):
        for ranks in (None, 2):
            process = self.start(f"gone{ranks}", ENDLESS, ranks=ranks)
            self.wait_for_step(process, f"gone{ranks}", 3)
            # In one step, as the run writes into it meanwhile.
            shutil.rmtree(self.run_folder(f"gone{ranks}").rename(self.folder / f"gone{ranks}"))
            self.assertEqual(self.assert_ends(process, 30), 7, self.output_of(f"gone{ranks}"))
            self.assertIn("metrics.jsonl was deleted while the run was writing to it", self.output_of(f"gone{ranks}"))

    def test_odd_content_of_our_own_files_is_named(self):
        self.train("once", "train.stop_step=3")
        for name, text, words in (("run.json", "[]", "run.json: expected a JSON object"),
                                  ("run.json", '{"status": 3}', "run.json: expected a text in the field status"),
                                  ("run.json", '{"status": "finished", "attempts": {}}', "run.json: expected a list"),
                                  ("metrics.jsonl", '{"step": "x"}\n', "metrics.jsonl:1: expected an integer in the field step"),
                                  ("metrics.jsonl", '3\n{"step": 1}\n', "metrics.jsonl:1: expected a JSON object")):
            path = self.run_folder("once") / name
            good = path.read_text()
            path.write_text(text)
            done = self.train("once", RESUME, "train.stop_step=4", status=7)
            self.assertIn(words, done.stdout)
            self.assertEqual(path.read_text(), text)
            path.write_text(good)
        path = self.run_folder("once") / "metrics.jsonl"
        path.write_text(path.read_text() + '{"step": 3, "tra')
        self.train("once", RESUME, "train.stop_step=4")
        self.assertEqual(sorted(self.curve("once")), [1, 2, 3, 4])

    # Branches.

    def test_a_branch_from_an_older_checkpoint_is_what_goes_on(self):
        self.train("tree", "train.stop_step=9", "checkpoint.every_steps=3", "checkpoint.keep_last=9")
        older = self.newest_checkpoint("tree").with_name("step-00000003.h5")
        for name in (older, "runs/tree/./checkpoints/step-00000003.h5"):
            said = self.train("tree", f"checkpoint.resume={name}", "train.stop_step=5").stdout
            self.assertRegex(said, r"set aside a checkpoint .*aside/step-\d+.*\.h5")
            self.assertEqual(os.readlink(older.with_name("latest")), "step-00000005.h5")
        self.assertIn("at step 5", self.train("tree", RESUME, "train.stop_step=6").stdout)
        aside = sorted(path.name for path in older.parent.glob("aside/*"))
        self.assertEqual(aside, ["step-00000005.h5", "step-00000006.h5", "step-00000009.h5"])
        self.assertIn("(step 6)", self.headway("eval", "runs/tree").stdout)

    def test_a_run_that_begins_with_anothers_checkpoint_has_one_of_its_own(self):
        self.train("parent", "train.stop_step=3")
        said = self.train("child", f"checkpoint.resume={self.newest_checkpoint('parent')}").stdout
        self.assertEqual(sorted(self.curve("child")), list(range(4, 41)))
        self.assertRegex(said, re.compile(r"resumed .*parent.*\nsaved .*child/checkpoints/step-00000003.h5", re.M))

    def test_a_run_that_goes_on_from_its_best_checkpoint_can_be_resumed(self):
        self.train("top", "train.stop_step=2", "checkpoint.keep_best=true", "checkpoint.keep_last=1")
        self.train("top", RESUME, "train.stop_step=4", "checkpoint.keep_last=1")
        best = self.newest_checkpoint("top").with_name("best.h5")  # its step has no file of its own any more
        self.assertFalse(best.with_name("step-00000002.h5").exists())
        said = self.train("top", f"checkpoint.resume={best}", "train.stop_step=3", "checkpoint.keep_last=1").stdout
        self.assertRegex(said, r"saved .*top/checkpoints/step-00000002.h5")


if __name__ == "__main__":
    unittest.main()
