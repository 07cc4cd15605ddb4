#!/usr/bin/env python3
"""Fails when a CUDA kernel spills registers, has serialised tensor-core products, or needs more registers than recorded.

    scripts/check_ptxas.py BUILD [--record] [UNIT ...]

BUILD is a build folder with the CUDA backend; UNIT a part of a unit's path, by default every unit of kernels/cuda. Each
is compiled for its GPU alone with ptxas's report, on every core; that takes about as long as the build's own CUDA units.

scripts/ptxas_table.json holds, for every unit and kernel (the largest of its instances): registers of a thread, bytes of
spill stores and loads, and instances whose wgmma products ptxas serialises (its codes C7510 to C7519). More than the
table says is a failure, of registers by more than the 8 that they are handed out in. A kernel that the table does not
have may neither spill nor serialise, except in the units of a new attention variant, whose hooks may need more registers
than the kernels for any variant have: they are named and pass. --record writes what was found into the table. Registers
depend on the compiler: with another release of CUDA than the table's, the exit status is 77, which ctest takes for a
skipped test.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = ROOT / "scripts/ptxas_table.json"
MEASURES = ("registers", "spill bytes", "serialised")


def release(nvcc):
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"release ([\d.]+)", version).group(1)


def units(build):
    """Path and compiler command of every CUDA unit of the kernels."""
    for entry in json.loads((build / "compile_commands.json").read_text(encoding="utf-8")):
        command, path = shlex.split(entry["command"]), pathlib.Path(entry["file"])
        if path.suffix == ".cu" and "headway_kernels_cuda.dir" in command[command.index("-o") + 1]:
            base = build if path.is_relative_to(build) else ROOT
            yield path.relative_to(base).as_posix(), command, entry["directory"]


def report(command, folder):
    """What ptxas says of the unit, compiled without its host code."""
    arch = re.search(r"code=\[[^]]*(sm_\w+)\]", " ".join(command)).group(1)
    command = [word for word in command if not word.startswith("--generate-code") and word != "-c"]
    with tempfile.TemporaryDirectory() as scratch:
        command[command.index("-o") + 1] = scratch + "/unit.cubin"
        done = subprocess.run(command + ["-cubin", f"-arch={arch}", "-Xptxas=-v"], cwd=folder, capture_output=True,
                              text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return done.stderr


def kernel_name(mangled):
    """headway::cuda::forward<...>(...) -> headway::cuda::forward"""
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout.strip()
    name = name.replace("(anonymous namespace)::", "").removeprefix("void ")
    return re.split(r"[<(]", name)[0]


def measure(text):
    """The largest of each measure by kernel."""
    found = collections.defaultdict(lambda: dict.fromkeys(MEASURES, 0))
    current = None
    for line in text.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            current = found[kernel_name(match.group(1))]
        elif match := re.search(r"\(C751\d\).*function '?(\w+)'?", line):
            found[kernel_name(match.group(1))]["serialised"] += 1
        elif current is None:
            continue
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            current["spill bytes"] = max(current["spill bytes"], int(match.group(1)) + int(match.group(2)))
        elif match := re.search(r"Used (\d+) registers", line):
            current["registers"] = max(current["registers"], int(match.group(1)))
    return found


def complaints(unit, found, recorded):
    for kernel, values in found.items():
        limits = recorded.get(kernel, {})
        for name in MEASURES:
            limit = limits.get(name, 0)
            if name == "registers":
                limit = limit + 8 if kernel in recorded else 255
            if values[name] > limit:
                yield f"{unit}: {kernel}: {name}: {values[name]}, expected at most {limit}"


def is_new_variant(unit, recorded_units):
    """Whether a unit that the table does not have was written for a header of kernels/attention/variants."""
    name = pathlib.PurePath(unit).stem.removesuffix("_dropout")
    return unit not in recorded_units and (ROOT / f"kernels/attention/variants/{name}.h").exists()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("unit", nargs="*")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_intermixed_args()
    chosen = [unit for unit in units(options.build.resolve())
              if not options.unit or any(part in unit[0] for part in options.unit)]
    if not chosen:
        sys.exit(f"check_ptxas.py: {options.build} has no such CUDA unit: expected a build with the CUDA backend")
    table = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {"cuda": "", "units": {}}
    cuda = release(chosen[0][1][0])
    if cuda != table["cuda"] and not options.record:
        print(f"The table is of CUDA {table['cuda']} and this compiler of CUDA {cuda}: nothing is compared.")
        return 77

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        reports = list(pool.map(lambda unit: report(unit[1], unit[2]), chosen))
    problems = []
    for (unit, _, _), text in zip(chosen, reports):
        found = measure(text)
        if is_new_variant(unit, table["units"]) and not options.record:
            print("\n".join(complaints(unit, found, {})) or f"{unit}: no kernel spills")
            print(f"{unit} is of a new variant, which --record puts into the table")
        else:
            problems += complaints(unit, found, table["units"].get(unit, {}))
        if options.record:
            table["units"][unit] = {kernel: {name: value for name, value in found[kernel].items() if value}
                                    for kernel in sorted(found)}
    if options.record:
        table["cuda"] = cuda
        if not options.unit:
            table["units"] = {unit: table["units"][unit] for unit, _, _ in sorted(chosen)}
        TABLE.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print("\n".join(problems) if problems else f"No kernel of {len(chosen)} units needs more than recorded.")
    return 1 if problems and not options.record else 0


if __name__ == "__main__":
    sys.exit(main())
