"""Checkpoints and weights files through the program, with h5py as the reader from outside."""
import importlib.util
import pathlib
import re
import subprocess
import sys
import unittest

import h5py
import numpy as np

from runs import Runs


def tensors(file):
    found = {}
    file["model"].visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    return found


def flip_a_bit(path, dataset):
    with h5py.File(path, "r") as file:
        offset = file[dataset].id.get_offset()
    with open(path, "r+b") as file:
        file.seek(offset + 5)
        byte = file.read(1)[0]
        file.seek(offset + 5)
        file.write(bytes([byte ^ 4]))


def to_nearest_bf16(values):
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)


class Export(Runs):
    def setUp(self):
        super().setUp()
        self.train("tiny", "train.stop_step=6", "checkpoint.every_steps=3")
        self.run_folder = self.folder / "runs" / "tiny"
        self.checkpoint = self.newest_checkpoint("tiny")

    def good(self, *arguments):
        done = self.headway(*arguments)
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def refused(self, *arguments):
        done = self.headway(*arguments)
        self.assertEqual(done.returncode, 4, done.stdout)
        complaints = [line for line in done.stdout.splitlines() if line.startswith("headway: ")]
        self.assertEqual(len(complaints), 1, done.stdout)
        return complaints[0], done.stdout

    def export(self, source, name, *options):
        path = self.folder / name
        self.good("export", source, "--to", "hdf5", "--out", path, *options)
        return path

    @unittest.skipUnless(importlib.util.find_spec("xxhash"), "python3-xxhash is missing")
    def test_the_programs_of_the_page_on_checkpoints_read_and_write_valid_files(self):
        page = (pathlib.Path(__file__).parents[3] / "docs/checkpoint-format.md").read_text()
        programs = dict(re.findall(r"<!-- (\w+) -->\n```python\n(.*?)```", page, re.DOTALL))

        def run(name, *arguments):
            done = subprocess.run([sys.executable, "-c", programs[name], *map(str, arguments)], text=True,
                                  capture_output=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            return done.stdout

        half = self.export(self.run_folder, "half.h5", "--dtype", "bf16")
        for source in (self.checkpoint, half):
            self.assertRegex(run("read", source), r"headway [\d.]+ step 6\nkind = ")
            written = self.folder / "written.h5"
            run("write", source, written)
            self.good("inspect", written)
            self.good("generate", written, "--tokens", "3")
            with h5py.File(source) as before, h5py.File(written) as after:
                self.assertTrue(np.array_equal(after["model/norm/weight"], 2 * before["model/norm/weight"][()]))
                after_all, before_all = tensors(after), tensors(before)
                for path in before_all.keys() - {"norm/weight"}:
                    self.assertTrue(np.array_equal(after_all[path], before_all[path]), path)

    def test_other_programs_read_the_same_numbers(self):
        exact = self.export(self.checkpoint, "exact.h5")
        half = self.export(self.run_folder, "half.h5", "--dtype", "bf16")  # a folder: its newest
        with h5py.File(self.checkpoint) as full, h5py.File(exact) as f32, h5py.File(half) as bf16:
            self.assertEqual((full.attrs["format"], full.attrs["step"]), (b"headway-checkpoint", 6))
            self.assertEqual((f32.attrs["format"], bf16.attrs["format"]), (b"headway-weights",) * 2)
            self.assertIn("optim", full)
            self.assertNotIn("optim", f32)
            self.assertIn("tokenizer", f32)
            self.assertEqual(f32["recipe"][()], full["recipe"][()])
            names = sorted(tensors(full))
            self.assertGreater(len(names), 10)
            self.assertEqual((names, names), (sorted(tensors(f32)), sorted(tensors(bf16))))
            for name in names:
                values = full["model"][name][()]
                self.assertEqual(values.dtype, np.float32)
                self.assertTrue(np.all(np.isfinite(values)), name)
                np.testing.assert_array_equal(values, f32["model"][name][()], name)
                narrow = bf16["model"][name]
                self.assertEqual(narrow.id.get_type().get_size(), 2, name)
                self.assertTrue(narrow.fletcher32 and narrow.chunks, name)
                np.testing.assert_array_equal(to_nearest_bf16(values), narrow[()], name)

    def test_eval_and_generate_take_checkpoints_and_weights(self):
        exact = self.export(self.checkpoint, "exact.h5")
        half = self.export(self.run_folder, "half.h5", "--dtype", "bf16")
        losses = [float(re.search(r"loss[^0-9]*([0-9.]+)", self.good("eval", path, f"data.text={self.folder}/text/*.txt"))[1])
                  for path in (self.checkpoint, exact, half)]
        self.assertEqual(losses[0], losses[1])
        self.assertLessEqual(abs(losses[0] - losses[2]), 0.02 * losses[0])
        texts = [self.good("generate", path, "--prompt", "the ", "--tokens", 30, "--seed", 4)
                 for path in (self.checkpoint, self.checkpoint, exact)]
        self.assertEqual(texts[0], texts[1])
        self.assertEqual(texts[0], texts[2])
        self.assertGreaterEqual(len(texts[0]), 30)

    def test_evaluation_on_two_ranks_is_that_on_one(self):
        one, two = (self.headway("eval", self.checkpoint, ranks=ranks) for ranks in (None, 2))
        self.assertEqual((one.returncode, two.returncode), (0, 0), one.stdout + two.stdout)
        losses = [float(re.search(r"loss[^0-9]*([0-9.]+)", done.stdout)[1]) for done in (one, two)]
        self.assertLessEqual(abs(losses[0] - losses[1]), 1e-4)

    def test_foreign_and_missing_files_are_refused(self):
        foreign = self.folder / "foreign.h5"
        with h5py.File(foreign, "w") as file:
            file["layer/weight"] = np.zeros((3, 4), np.float32)
        why, listing = self.refused("inspect", foreign)
        self.assertIn("not a Headway checkpoint", why)
        self.assertIn("/layer/weight", listing)
        for verb in ("eval", "generate", "export"):
            self.assertIn("not a Headway checkpoint", self.refused(verb, foreign)[0])
            self.assertIn("absent.h5", self.refused(verb, self.folder / "absent.h5")[0])

    def test_a_flipped_bit_is_found_and_the_older_checkpoint_used(self):
        name = "embedding"
        flip_a_bit(self.checkpoint, f"model/{name}")
        why, listing = self.refused("inspect", self.checkpoint)
        self.assertIn(f"{name} is damaged", why)
        self.assertEqual(listing.count("DAMAGED"), 1)
        self.assertIn("is damaged", self.refused("eval", self.checkpoint)[0])
        self.assertIn("step-00000003.h5", self.good("export", self.run_folder, "--out", self.folder / "older.h5"))
        resumed = self.train("tiny", "checkpoint.resume=auto", "train.stop_step=8")
        self.assertIn("skipped a checkpoint", resumed.stdout)
        self.assertEqual(sorted(self.curve("tiny")), list(range(1, 9)))


if __name__ == "__main__":
    unittest.main()
