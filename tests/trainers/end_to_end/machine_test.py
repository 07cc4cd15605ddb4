"""OpenBLAS may not know the processor and take kernels that are older than it: the program asks for better ones."""
import os
import pathlib
import subprocess
import unittest

from runs import Runs

# Stands for a library that does not know the processor, unless it is told which core to take.
UNKNOWING = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
const char* openblas_get_corename(void) {
  const char* (*own)(void) = dlsym(RTLD_NEXT, "openblas_get_corename");
  return getenv("OPENBLAS_CORETYPE") ? own() : "Prescott";
}
"""


class Machine(Runs):
    def device_line(self, name, **environment):
        kept = {key: value for key, value in os.environ.items() if key != "OPENBLAS_CORETYPE"}
        done = subprocess.run(self.command("train", self.recipe, f"run.name={name}", "train.max_steps=6"),
                              cwd=self.folder, env={**kept, **environment}, timeout=120, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout)
        return next(line for line in done.stdout.splitlines() if line.startswith("device "))

    def has_avx2(self):
        return " avx2 " in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")

    def test_a_core_that_the_user_forced_stays_and_is_warned_of(self):
        if not self.has_avx2():
            self.skipTest("no core of OpenBLAS is better than the oldest on this processor")
        line = self.device_line("forced", OPENBLAS_CORETYPE="Prescott")
        self.assertIn("OpenBLAS Prescott, older than this processor allows: OPENBLAS_CORETYPE=", line)

    def test_a_core_that_the_library_chose_too_old_is_replaced(self):
        if not self.has_avx2():
            self.skipTest("no core of OpenBLAS is better than the oldest on this processor")
        source, library = self.folder / "unknowing.c", self.folder / "unknowing.so"
        source.write_text(UNKNOWING, encoding="utf-8")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
        line = self.device_line("replaced", LD_PRELOAD=str(library))
        self.assertRegex(line, r"OpenBLAS \w+ \(chosen in place of Prescott, which is older than this processor\)")


if __name__ == "__main__":
    unittest.main()
