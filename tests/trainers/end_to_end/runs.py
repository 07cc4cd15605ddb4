"""Starts the program as a user does, on a tiny recipe, and reads what a run leaves behind.

HEADWAY_PROGRAM is the program under test and HEADWAY_MPIEXEC the mpirun to start ranks with; both come from
CMake, as does the environment that lets mpirun start more ranks than there are cores.
"""
import json
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import time
import unittest

PROGRAM = os.environ["HEADWAY_PROGRAM"]
MPIEXEC = os.environ["HEADWAY_MPIEXEC"]

# 512 tokens a step are 4 sequences x 32 tokens x 4 micro-batches, so 1, 2 and 4 ranks divide them.
RECIPE = """
[run]
name = "tiny"
[data]
text = ["{folder}/text/*.txt"]
seq_len = 32
val_fraction = 0.1
[model]
num_layers = 2
model_dim = 32
attention.num_heads = 2
[train]
batch_tokens = 512
micro_batch = 4
max_steps = 40
[optim]
lr = 1e-2
[schedule]
warmup_steps = 5
[checkpoint]
every_seconds = 0
[eval]
batches = 4
[log]
every_steps = 1
[generate]
tokens = 0
"""


def write_text(folder, num_files=20, words_per_file=2000):
    """Sentences of a few dozen words, the same in every run."""
    rng = random.Random(1)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(1, 8))) for _ in range(50)]
    folder.mkdir()
    for number in range(num_files):
        text = " ".join(rng.choices(words, k=words_per_file))
        (folder / f"{number:02}.txt").write_text(text + "\n")


class Runs(unittest.TestCase):
    """A scratch folder with text, a recipe, and runs below it."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="headway_")
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)
        write_text(self.folder / "text")
        self.recipe = self.write_recipe(RECIPE.format(folder=self.folder))

    def write_recipe(self, text, name="tiny.toml"):
        path = self.folder / name
        path.write_text(text)
        return path

    def command(self, *arguments, ranks=None):
        launcher = [MPIEXEC, "-np", str(ranks)] if ranks else []
        return [*launcher, PROGRAM, *map(str, arguments)]

    def headway(self, *arguments, ranks=None, seconds=120):
        """Runs to the end; killed, and a failure, after so many seconds."""
        return subprocess.run(self.command(*arguments, ranks=ranks), cwd=self.folder, timeout=seconds,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)

    def train(self, name, *overrides, ranks=None, status=0, seconds=120):
        """Trains as runs/<name>; fails unless it ends with this status."""
        done = self.headway("train", self.recipe, f"run.name={name}", *overrides, ranks=ranks, seconds=seconds)
        self.assertEqual(done.returncode, status, done.stdout)
        return done

    def start(self, name, *overrides, ranks=None):
        """Starts a run in the background, killed at the end of the test."""
        log = open(self.folder / f"{name}.out", "w", encoding="utf-8")
        self.addCleanup(log.close)
        process = subprocess.Popen(self.command("train", self.recipe, f"run.name={name}", *overrides, ranks=ranks),
                                   cwd=self.folder, stdout=log, stderr=subprocess.STDOUT, text=True)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def output_of(self, name):
        return (self.folder / f"{name}.out").read_text(encoding="utf-8")

    def rows(self, name, key="train/loss"):
        """The lines of metrics.jsonl that hold this figure."""
        path = self.folder / "runs" / name / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [row for row in map(json.loads, lines) if key in row]

    def curve(self, name, key="train/loss"):
        """{step: value}; a step that appears twice is a failure."""
        rows = self.rows(name, key)
        curve = {row["step"]: row[key] for row in rows}
        self.assertEqual(len(curve), len(rows), f"{name}: a step appears twice in metrics.jsonl")
        return curve

    def record(self, name):
        return json.loads((self.folder / "runs" / name / "run.json").read_text(encoding="utf-8"))

    def wait_for_step(self, process, name, step, seconds=60):
        """Returns when a started run has recorded this step."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.assertIsNone(process.poll(), self.output_of(name))
            if any(row["step"] >= step for row in self.finished_rows(name)):
                return
            time.sleep(0.05)
        self.fail(f"{name} did not reach step {step} within {seconds} s:\n{self.output_of(name)}")

    def finished_rows(self, name):
        """rows() of a run that may be writing its last line."""
        try:
            return self.rows(name)
        except json.JSONDecodeError:
            return []

    def newest_checkpoint(self, name):
        checkpoints = sorted((self.folder / "runs" / name / "checkpoints").glob("step-*.h5"))
        self.assertTrue(checkpoints, f"{name} has no checkpoint")
        return checkpoints[-1]

    def ranks_of(self, process):
        """Process ids of the program's ranks below an mpirun."""
        program = os.path.realpath(PROGRAM)
        pids = []
        for entry in pathlib.Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.path.realpath(entry / "exe") == program:
                    if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == process.pid:
                        pids.append(int(entry.name))
            except OSError:
                continue  # it has ended, or is another user's
        return sorted(pids)

    def is_alive(self, pid):
        """Whether a rank runs: one that has ended may wait for its parent as a zombie."""
        try:
            return os.path.realpath(f"/proc/{pid}/exe") == os.path.realpath(PROGRAM)
        except OSError:
            return False

    def assert_ends(self, process, seconds):
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.fail(f"still running {seconds} s later")


def digests(checkpoint, *groups):
    """{path: digest} of the datasets below these groups; needs h5py."""
    import h5py

    found = {}
    with h5py.File(checkpoint) as file:
        for group in groups:
            file[group].visititems(lambda name, item, group=group: found.update(
                {f"{group}/{name}": item.attrs["xxh3"]}) if isinstance(item, h5py.Dataset) else None)
    return found


def cursor(checkpoint):
    """Sequences consumed; needs h5py."""
    import h5py

    with h5py.File(checkpoint) as file:
        return int(file["data"].attrs["cursor"])


STOP = signal.SIGUSR1
