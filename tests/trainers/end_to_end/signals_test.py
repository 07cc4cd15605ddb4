"""A run asked to stop saves, says so by its exit status, and goes on where it stopped."""
import os
import pathlib
import signal
import subprocess
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
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self.check_stop(number.name, ranks=None, number=number)

    def test_a_hangup_that_was_ignored_stays_ignored(self):
        log = open(self.folder / "nohup.out", "w", encoding="utf-8")
        self.addCleanup(log.close)
        process = subprocess.Popen(["nohup", *self.command("train", self.recipe, "run.name=nohup", "train.max_steps=60")],
                                   cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self.addCleanup(process.kill)
        self.wait_for_step(process, "nohup", 5)
        process.send_signal(signal.SIGHUP)
        self.assertEqual(self.assert_ends(process, 60), 0)
        self.assertEqual(max(self.curve("nohup")), 60)

    def test_a_second_sigterm_ends_at_once(self):
        # Reading the data is long, and the first request is looked at only between its files.
        process = self.start("twice", "train.max_steps=1000000", "train.batch_tokens=32768", "train.micro_batch=256")
        self.wait_for_step(process, "twice", 1)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        self.assertIn(self.assert_ends(process, 10), (-signal.SIGTERM, 75))

    def test_a_reader_that_leaves_does_not_end_the_run(self):
        done = subprocess.run(["bash", "-c", '"$@" | head -3; exit ${PIPESTATUS[0]}', "bash",
                               *self.command("train", self.recipe, "run.name=piped")],
                              cwd=self.folder, timeout=120, stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(done.returncode, 7)
        self.assertIn("the standard output could not be written", done.stderr)
        self.assertEqual(self.newest_checkpoint("piped").name, "step-00000040.h5")
        self.assertEqual(self.record("piped")["status"], "finished")
        self.assertIn("step 40/40", (self.folder / "runs/piped/log.txt").read_text(encoding="utf-8"))

    def piped(self, name, *arguments, into):
        """Exit status of a run whose output goes into a command that leaves."""
        done = subprocess.run(["bash", "-c", f'"$@" {into}; exit ${{PIPESTATUS[0]}}', "bash",
                               *self.command("train", self.recipe, f"run.name={name}", *arguments)],
                              cwd=self.folder, timeout=120, stderr=subprocess.DEVNULL, check=False)
        return done.returncode

    def test_a_reader_that_leaves_does_not_end_ranks_that_the_program_started(self):
        for name, into in (("head", "| head -3"), ("both", "2>&1 | head -3"), ("full", ">/dev/full")):
            self.assertEqual(self.piped(name, "-n", 2, into=into), 7)
            self.assertEqual(self.newest_checkpoint(name).name, "step-00000040.h5")
            self.assertEqual(self.record(name)["status"], "finished")

    def test_nothing_is_printed_into_files_of_the_run(self):
        self.assertEqual(self.piped("closed", into="<&- >&- 2>&-"), 7)
        self.assertEqual(self.record("closed")["status"], "finished")
        log = (self.folder / "runs/closed/log.txt").read_text(encoding="utf-8")
        self.assertEqual(log.count("step 40/40 | loss"), 1)
        self.assertNotIn("headway closed", (self.folder / "runs/closed/.lock").read_text(encoding="utf-8"))

    def test_errors_that_nobody_reads_keep_their_status(self):
        self.assertEqual(self.piped("both", into="2>&1 | head -3"), 7)
        self.assertEqual(self.piped("unknown", "data.absent=1", into="2>&1 | true"), 2)

    def test_a_second_signal_ends_ranks_that_the_program_started(self):
        process = self.start("hung", "train.max_steps=1000000", "-n", 2)
        self.wait_for_step(process, "hung", 2)
        launcher = int(pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
        for pid in self.children_of(launcher):
            os.kill(pid, signal.SIGSTOP)
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        self.assertEqual(self.assert_ends(process, 10), -signal.SIGTERM)
        deadline = time.monotonic() + 20
        while pathlib.Path(f"/proc/{launcher}/cmdline").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        self.assertFalse(pathlib.Path(f"/proc/{launcher}/cmdline").exists())

    def test_a_rank_that_is_killed_is_told_of(self):
        process = self.start("killed", "train.max_steps=1000000", "-n", 2)
        self.wait_for_step(process, "killed", 2)
        launcher = int(pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
        os.kill(self.children_of(launcher)[-1], signal.SIGKILL)
        self.assertEqual(self.assert_ends(process, 30), 8)
        self.assertIn("a rank was ended by signal 9 (Killed)", self.output_of("killed"))

    def children_of(self, pid):
        return [int(word) for task in pathlib.Path(f"/proc/{pid}/task").iterdir()
                for word in (task / "children").read_text().split()]

    def test_a_limit_of_file_sizes_ends_with_status_7(self):
        done = subprocess.run(["bash", "-c", 'ulimit -f 64; "$@"', "bash",
                               *self.command("train", self.recipe, "run.name=limited", "model.model_dim=128")],
                              cwd=self.folder, timeout=120, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, check=False)
        self.assertEqual(done.returncode, 7, done.stdout)
        self.assertEqual(self.record("limited")["status"], "failed")

    def shared_folder_of(self, process):
        """What the mpirun that this process started was told to share memory in."""
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        words = pathlib.Path(f"/proc/{children[0]}/cmdline").read_text().split("\0")
        return pathlib.Path(words[words.index("btl_vader_backing_directory") + 1])

    def test_a_request_to_ranks_that_are_starting_stops_them(self):
        for milliseconds in (0, 50, 200, 500):
            name = f"starting{milliseconds}"
            process = self.start(name, "train.max_steps=1000000", "-n", 2)
            time.sleep(milliseconds / 1000)
            process.send_signal(STOP)
            self.assertIn(self.assert_ends(process, 30), (75, -STOP), self.output_of(name))

    def test_ranks_started_by_the_program_stop_without_words_of_mpirun(self):
        process = self.start("own_ranks", "train.max_steps=1000000", "-n", 2)
        self.wait_for_step(process, "own_ranks", 5)
        shared = self.shared_folder_of(process)
        self.assertTrue(shared.exists())
        process.send_signal(signal.SIGINT)
        self.assertEqual(self.assert_ends(process, 30), 75, self.output_of("own_ranks"))
        self.assertNotIn("mpirun", self.output_of("own_ranks"))
        self.assertEqual(self.record("own_ranks")["attempts"][0]["ranks"], 2)
        self.assertFalse(shared.exists())

    def test_output_that_cannot_be_written_is_an_error(self):
        self.train("full")
        shards = self.folder / "shards"
        for arguments in (["eval", "runs/full"], ["generate", "runs/full"], ["plan", self.recipe], ["--help"],
                          ["tokenize", self.folder / "text", "--out", shards], ["inspect", "runs/full"]):
            with open("/dev/full", "w", encoding="utf-8") as full:
                done = subprocess.run(self.command(*arguments), cwd=self.folder, timeout=60, stdout=full,
                                      stderr=subprocess.PIPE, text=True, check=False)
            self.assertEqual(done.returncode, 7, (arguments, done.stderr))
            self.assertIn("the standard output could not be written: No space left on device", done.stderr)

    def test_a_signal_at_any_moment_of_the_start_loses_nothing(self):
        for milliseconds in (0, 20, 50, 100, 200, 400):
            name = f"early{milliseconds}"
            process = self.start(name, "train.max_steps=1000000")
            time.sleep(milliseconds / 1000)
            process.send_signal(STOP)
            # Before the program has asked for signals, the system ends it.
            self.assertIn(self.assert_ends(process, 30), (75, -STOP), self.output_of(name))
            if (self.folder / "runs" / name / "run.json").exists():
                self.assertEqual(self.record(name)["status"], "stopped")
            stopped_at = max([0, *self.curve(name)])
            self.train(name, "train.max_steps=1000000", "checkpoint.resume=auto", f"train.stop_step={stopped_at + 5}")
            self.assertEqual(sorted(self.curve(name)), list(range(1, stopped_at + 6)))


if __name__ == "__main__":
    unittest.main()
