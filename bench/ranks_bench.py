#!/usr/bin/env python3
"""Tokens per second of the same training on one rank with all cores and on as many ranks as cores, with one thread each.

    bench/ranks_bench.py build/headway recipes/quickstart.toml [section.key=value...]

Both start `--rounds` times in turn, so that a slow minute of the machine meets both; the ratio is that of the medians.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile


def tokens_per_second(program, recipe, overrides, ranks, threads, steps, folder):
    command = [program, "train", recipe, f"run.folder={folder}", "run.name=bench", "run.force_new=true",
               f"train.stop_step={steps}", "log.every_steps=1", "generate.tokens=0", "eval.final_tokens=1",
               "checkpoint.every_seconds=0", *overrides]
    if ranks > 1:
        command = ["mpirun", "-np", str(ranks), "--bind-to", "none",
                   *(["--allow-run-as-root"] if os.geteuid() == 0 else []), *command]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stdout)
    rows = map(json.loads, (pathlib.Path(folder) / "bench" / "metrics.jsonl").read_text().splitlines())
    speeds = [row["perf/tokens_per_s"] for row in rows if "perf/tokens_per_s" in row]
    return speeds[2:]  # the first steps touch memory for the first time


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), help="ranks or threads (%(default)s)")
    parser.add_argument("--steps", type=int, default=12, help="steps of a start (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each (%(default)s)")
    args = parser.parse_intermixed_args()
    threads, ranks = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            run = (args.program, args.recipe, args.overrides)
            threads += tokens_per_second(*run, 1, args.cores, args.steps, folder)
            ranks += tokens_per_second(*run, args.cores, 1, args.steps, folder)
    for name, speeds in ((f"1 rank x {args.cores} threads", threads), (f"{args.cores} ranks x 1 thread", ranks)):
        print(f"{name}: {statistics.median(speeds):.1f} tokens/s "
              f"({min(speeds):.1f} to {max(speeds):.1f}, {len(speeds)} steps)")
    print(f"ratio: {statistics.median(ranks) / statistics.median(threads):.3f}")


if __name__ == "__main__":
    main()
