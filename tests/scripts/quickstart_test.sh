#!/bin/bash
# The README's first command in a clean copy, twice in a row, from another folder. Needs nothing of the network
# where the packages are installed. Usage: quickstart_test.sh SOURCE
# Where the source is a repository, the copy is a clone of what is committed, and must stay clean; a source
# archive is copied as it is, without what builds and runs left in it. The copy lies in the folder of the build: compiler caches that know the source's folder find it there.
set -euo pipefail
source_folder=$1
scratch=$(mktemp -d -p "$PWD")
trap 'rm -rf "$scratch"' EXIT
# The continuous integration may own the checkout as another user.
is_repository=false
if command -v git >/dev/null && git -c safe.directory='*' -C "$source_folder" rev-parse -q --verify HEAD >/dev/null 2>&1; then
  is_repository=true
fi
if $is_repository; then
  git -c safe.directory='*' clone -q "$source_folder" "$scratch/clone"
else
  mkdir "$scratch/clone"
  tar -C "$source_folder" --exclude='./build*' --exclude=./runs --exclude=./sweeps -cf - . | tar -C "$scratch/clone" -xf -
fi
cd "$scratch"
for run in 1 2; do
  clone/scripts/quickstart train.max_steps=6 schedule.warmup_steps=2 data.max_bytes=1M eval.final_tokens=2K generate.tokens=20
done
for name in quickstart quickstart-2; do
  for file in metrics.jsonl metrics.csv recipe.resolved.toml checkpoints/step-00000006.h5 samples/step-00000006.txt; do
    [ -s "clone/runs/$name/$file" ] || { echo "FAILED: runs/$name/$file is missing or empty"; exit 1; }
  done
done
$is_repository || exit 0
[ -z "$(git -C clone status --porcelain)" ] || { echo "FAILED: the clone is not clean"; git -C clone status --short; exit 1; }
