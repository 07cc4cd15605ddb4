"""What the drills share: a scratch folder with a small run in it, and the program under test.

The program is $HEADWAY_PROGRAM, or build/headway of this source tree.
"""
import os
import pathlib
import random
import subprocess
import sys

PROGRAM = os.environ.get("HEADWAY_PROGRAM", pathlib.Path(__file__).resolve().parent.parent / "build" / "headway")

RECIPE = """
[run]
name = "drill"
[data]
text = ["text/*.txt"]
seq_len = 32
[model]
num_layers = 2
model_dim = 32
attention.num_heads = 2
[train]
batch_tokens = 512
micro_batch = 4
max_steps = 1_000_000
[schedule]
kind = "constant"
[checkpoint]
every_seconds = 0
[log]
every_steps = 1
[generate]
tokens = 0
"""


def count_from(arguments, otherwise):
    """The first argument as a number of cases."""
    try:
        count = int(arguments[1]) if len(arguments) > 1 else otherwise
    except ValueError:
        count = 0
    if len(arguments) > 2 or count < 1:
        sys.exit(f"usage: {pathlib.Path(arguments[0]).name} [N]: expected a number of cases, at least 1")
    return count


def prepare(folder):
    """Writes text and recipe."""
    rng = random.Random(1)
    (folder / "text").mkdir()
    for number in range(40):
        words = ("".join(rng.choices("etaoin shrdlu", k=40)) for _ in range(100))
        (folder / "text" / f"{number:02}.txt").write_text(" ".join(words), encoding="utf-8")
    (folder / "drill.toml").write_text(RECIPE, encoding="utf-8")


def headway(folder, *arguments):
    """Runs the program to its end."""
    return subprocess.run([PROGRAM, *map(str, arguments)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          encoding="utf-8", errors="replace", timeout=600, check=False)


def print_table(rows):
    """(what, count) a line; exits with 1 where a count that must be zero is not: those whose name ends with `!`."""
    width = max(len(name) for name in rows)
    for name, count in rows.items():
        print(f"{name.rstrip('!'):<{width}}  {count:>7}")
    sys.exit(any(count for name, count in rows.items() if name.endswith("!")))
