#!/usr/bin/env python3
"""Fails when a source file includes a layer above its own, or branches in the preprocessor where it must not.

    core <- kernels <- autograd <- layers <- trainers

A folder may include itself and the folders to its left; tests and bench may include all of them and are
included by none. Of kernels/, layers/ sees only the policies of attention variants: everything else reaches it
through autograd. Usage: check_layers.py [root]
"""
import pathlib
import re
import sys

ORDER = ["core", "kernels", "autograd", "layers", "trainers"]
OUTSIDE = ["bench", "tests"]
SUFFIXES = {".h", ".cpp", ".cu", ".cuh", ".in"}
POLICY = re.compile(r"kernels/attention/(softmax_variant\.h|linear_variant\.h|variants/\w+\.h)")
INCLUDE = re.compile(r'\s*#\s*include\s*["<]([^">]+)[">]')
CONDITIONAL = re.compile(r"\s*#\s*(if|ifdef|ifndef|elif|else)\b")
# Kernels of Hopper's own instructions, which the compiler of any other architecture refuses, among them.
MAY_BRANCH = ("core/cuda/", "kernels/cuda/attention/", "kernels/cuda/linear/", "kernels/cuda/tile/",
              "core/host_device.h")


def forbidden_include(folder, included):
    """Why a file of this folder may not include that path, or None."""
    target = included.split("/")[0]
    if "/" not in included or target not in ORDER + OUTSIDE or folder in OUTSIDE:
        return None
    if target in OUTSIDE:
        return f"{target}/ is included by nothing but tests and bench"
    if ORDER.index(target) > ORDER.index(folder):
        return f"{folder}/ stands below {target}/"
    if folder == "layers" and target == "kernels" and not POLICY.fullmatch(included):
        return "of kernels/, layers/ may include only the policies of attention variants"
    return None


def complaints(root):
    for folder in ORDER + OUTSIDE:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in SUFFIXES:
                continue
            name = path.relative_to(root).as_posix()
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                include = INCLUDE.match(line)
                reason = forbidden_include(folder, include.group(1)) if include else None
                if reason:
                    yield f'{name}:{number}: includes "{include.group(1)}": {reason}'
                if CONDITIONAL.match(line) and not name.startswith(MAY_BRANCH):
                    yield f"{name}:{number}: {line.strip()}: allowed only in {', '.join(MAY_BRANCH)}"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[1])
    found = list(complaints(root))
    print("\n".join(found) if found else "Every include points down.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
