#!/bin/bash
# Installs a build and links a project of its own against it. Usage: package_test.sh SOURCE BUILD
set -euo pipefail
source_folder=$1 build=$2
scratch=$(mktemp -d -p "$build")
trap 'rm -rf "$scratch"' EXIT
cmake --install "$build" --prefix "$scratch/prefix" >/dev/null
cmake -S "$source_folder/tests/package" -B "$scratch/build" -DCMAKE_PREFIX_PATH="$scratch/prefix" -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build "$scratch/build"
said=$("$scratch/build/user")
echo "$said"
for kind in softmax lightning; do
  [[ " $said" == *" $kind "* ]] || { echo "FAILED: the kind $kind was not linked"; exit 1; }
done
"$scratch/prefix/bin/headway" plan "$scratch/prefix/share/headway/recipes/quickstart.toml" data.text="$source_folder/README.md" \
  >/dev/null || { echo "FAILED: the installed program does not plan the installed recipe"; exit 1; }
