#!/bin/bash
# What scripts/packages does about a package manager that is busy, with stand-ins for the kernel's list of locks.
# Usage: packages_test.sh SOURCE
set -euo pipefail
source "$1/scripts/packages"

# expect <status> <text> <command>...: the command, in a shell of its own, ends so and says this
expect() {
  local status=0 output
  output=$( ("${@:3}") 2>&1) || status=$?
  [ "$status" -eq "$1" ] || { echo "FAILED: ${*:3} ended with $status, expected $1: $output"; exit 1; }
  [[ "$output" == *"$2"* ]] || { echo "FAILED: ${*:3} said \"$output\", expected \"$2\""; exit 1; }
}

busy_for_ever() {
  package_manager_is_busy() { return 0; }
  HEADWAY_APT_WAIT_S=2 wait_for_package_manager
}
busy_for_a_moment() {
  local calls=0
  package_manager_is_busy() { calls=$((calls + 1)); [ "$calls" -le 3 ]; }
  HEADWAY_APT_WAIT_S=60 wait_for_package_manager
}
never_busy() {
  package_manager_is_busy() { return 1; }
  wait_for_package_manager && echo "went on"
}
expect 1 "another package manager (apt or dpkg) has held its lock for 2 s" busy_for_ever
expect 0 "Another package manager is at work; waiting for it, at most 60 s" busy_for_a_moment
expect 0 "went on" never_busy

# A build folder that was made elsewhere is named before CMake sees it.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/scripts" "$scratch/build"
cp "$1/scripts/packages" "$1/scripts/build" "$scratch/scripts"
cp "$1/CMakePresets.json" "$scratch"
echo "CMAKE_HOME_DIRECTORY:INTERNAL=/elsewhere" >"$scratch/build/CMakeCache.txt"
expect 1 "build was built for /elsewhere and cannot be used in $scratch: delete it" "$scratch/scripts/build" cpu
