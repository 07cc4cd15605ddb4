#!/bin/sh
# expect_status.sh STATUS SECONDS TEXT COMMAND...
# Passes when COMMAND ends with exit status STATUS within SECONDS and TEXT is in what it prints.
# 77 is handed on: the test cannot run on this machine.
status=$1 seconds=$2 text=$3
shift 3
output=$(timeout --signal=KILL "$seconds" "$@" 2>&1)
actual=$?
printf '%s\n' "$output"
[ "$actual" -eq 77 ] && exit 77
if [ "$actual" -ne "$status" ]; then
  echo "FAILED: exit status $actual, expected $status within $seconds s"
  exit 1
fi
case $output in
  *"$text"*) ;;
  *) echo "FAILED: the output does not contain: $text"; exit 1 ;;
esac
