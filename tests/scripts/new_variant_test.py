"""scripts/new_variant: what it writes into a copy of the tree compiles, and fails at one line alone.

Usage: new_variant_test.py COMPILER [FLAG...]: a C++ compiler and what it needs to find the dependencies' headers.
"""
import importlib.machinery
import importlib.util
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).parents[2]
COMPILER = []


def load_script():
    loader = importlib.machinery.SourceFileLoader("new_variant", str(ROOT / "scripts/new_variant"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("new_variant", loader))
    loader.exec_module(module)
    return module


class NewVariant(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.folder.name)
        for name in ("autograd", "core", "docs", "kernels", "layers", "recipes", "scripts", "tests/golden", "tests/layers"):
            shutil.copytree(ROOT / name, cls.root / name, ignore=shutil.ignore_patterns("__pycache__", "*.h5"))

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def generate(self, *arguments, status=0):
        done = subprocess.run([sys.executable, self.root / "scripts/new_variant", *arguments], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(done.returncode, status, done.stdout)
        return done.stdout

    def compile(self, path):
        done = subprocess.run([*COMPILER, f"-I{self.root}", "-std=c++20", "-Wall", "-Wextra", "-Werror",
                               "-fsyntax-only", "-x", "c++", self.root / path], text=True, capture_output=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def check(self, name, *options):
        self.generate(name, *options)
        layer = (self.root / f"layers/attention/{name}.cpp").read_text()
        self.assertEqual(layer.count("throw"), 1)
        self.compile(f"layers/attention/{name}.cpp")
        definition = (self.root / f"tests/golden/{name}.py").read_text()
        self.assertEqual(definition.count("raise"), 1)
        compile(definition, name, "exec")
        for path in (f"recipes/{name}.toml", f"recipes/124m/{name}.toml", f"docs/{name}.md"):
            self.assertIn(name, (self.root / path).read_text())
        self.assertEqual((self.root / "tests/layers/kinds.h").read_text().count(f'{{.kind = "{name}",'), 1)

    def test_a_kind_of_the_softmax_family_compiles(self):
        self.check("made_up_bias")

    def test_a_kind_with_a_policy_compiles(self):
        self.check("made_up_score", "--softmax", "--policy")
        self.assertIn("struct MadeUpScore", (self.root / "kernels/attention/variants/made_up_score.h").read_text())

    def test_a_kind_of_the_linear_family_compiles(self):
        self.check("zz_made_up_map", "--linear")

    def test_rows_keep_their_order(self):
        script = load_script()
        kinds = (ROOT / "tests/layers/kinds.h").read_text()
        for name, after in (("aaa", '{.kind = "affine",'), ("softmay", "  };\n  return rows;")):
            text = script.with_row(kinds, name, f"ROW {name}\n")
            self.assertTrue(text[text.index(f"ROW {name}\n") + len(f"ROW {name}\n"):].lstrip().startswith(after.lstrip()))

    def test_a_bad_name_is_refused_and_nothing_written(self):
        kinds = (self.root / "tests/layers/kinds.h").read_text()
        for name, said in (("softmax", "layers/attention/softmax.cpp exists"), ("MyKind", "lower case")):
            self.assertIn(said, self.generate(name, status=2))
        self.assertIn("--policy", self.generate("other", "--linear", "--policy", status=2))
        self.assertEqual((self.root / "tests/layers/kinds.h").read_text(), kinds)


if __name__ == "__main__":
    COMPILER = sys.argv[1:]
    unittest.main(argv=sys.argv[:1])
