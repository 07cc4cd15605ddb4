"""Every registered kind of attention has its files, and its recipes have as many parameters as softmax attention's.

HEADWAY_PROGRAM is the program under test; the kinds are those it knows.
"""
import os
import pathlib
import re
import subprocess
import unittest

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = os.environ["HEADWAY_PROGRAM"]
# Beside the nearest width, one that is a rounder number may be as good as equal.
SAME_PERCENT = 0.15


def headway(*arguments):
    return subprocess.run([PROGRAM, *map(str, arguments)], text=True, capture_output=True, check=True).stdout


KINDS = re.findall(r'^model\.attention\.kind = "(\w+)"', headway("train", "--help-attention"), re.MULTILINE)


class Kinds(unittest.TestCase):
    def test_the_program_knows_every_layer_file(self):
        registrations = [found for path in (ROOT / "layers/attention").glob("*.cpp")
                         for found in re.findall(r"^HEADWAY_ATTENTION\((\w+),", path.read_text(), re.MULTILINE)]
        self.assertEqual(sorted(registrations), sorted(KINDS))

    def test_every_kind_has_its_files(self):
        for kind in KINDS:
            for path in (f"layers/attention/{kind}.cpp", f"docs/{kind}.md", f"recipes/{kind}.toml",
                         f"recipes/124m/{kind}.toml", f"tests/golden/{kind}.py"):
                self.assertTrue((ROOT / path).is_file(), f"{path} is missing")
            self.assertTrue(list((ROOT / "tests/golden").glob(f"{kind}-*.h5")), f"{kind} has no golden case")
            page = (ROOT / f"docs/{kind}.md").read_text()
            self.assertIn(f'`model.attention.kind = "{kind}"`', page)

    def test_recipes_have_the_parameters_of_softmax(self):
        for folder in ("recipes", "recipes/124m"):
            for kind in KINDS:
                text = headway("plan", ROOT / folder / f"{kind}.toml", "--match", "softmax")
                (present, percent), (nearest, _) = re.findall(r"mlp_dim = (\d+) +\d+ +([-+][\d.]+) %", text)
                self.assertTrue(present == nearest or abs(float(percent)) <= SAME_PERCENT,
                                f"{folder}/{kind}.toml: mlp_dim = {present} is {percent} %, expected {nearest}")
                self.assertRegex(text, rf"Parameters beside the \d+ of .*/{folder}/softmax.toml")


if __name__ == "__main__":
    unittest.main()
