"""Checkpoints whose parts contradict each other: no part is outside a digest or a range, and what verifies loads."""
import pathlib
import shutil
import time
import unittest

import h5py
import numpy as np

from runs import Runs

# Written by the last build that left attributes out of every digest.
OLD_FORMAT = pathlib.Path(__file__).parent / "format_version_1.h5"
OLD_MODEL = ("model.num_layers=1", "model.model_dim=8", "model.attention.num_heads=1")

# (group, attribute, value, words of the complaint)
OUT_OF_RANGE = (("/data", "cursor", -1, "attribute cursor of data is -1, expected 0 to"),
                ("/data", "cursor", 2**62, "attribute cursor of data"),
                ("/state", "step", -1, "attribute step of state is -1"),
                ("/state", "step", 7, "its step is 3 in the root and 7 in state"),
                ("/state", "skipped", 4, "attribute skipped of state is 4, expected 0 to 3"),
                ("/", "step", -1, "attribute step of the root is -1"),
                ("/", "tokens", -5, "attribute tokens of the root is -5"),
                ("/env", "world_size", 0, "attribute world_size of env is 0"),
                ("/tokenizer", "kind", "symbols:100000000", "the tokenizer is symbols:100000000, and the recipe's bytes"),
                ("/tokenizer", "kind", "words", 'data.tokenizer = "words" is unknown'))


def set_attribute(path, group, name, value):
    """Of the types that we write."""
    with h5py.File(path, "r+") as file:
        if not isinstance(value, str):
            file[group].attrs[name] = np.int64(value)
            return
        del file[group].attrs[name]
        text = h5py.h5t.C_S1.copy()
        text.set_size(len(value))
        text.set_strpad(h5py.h5t.STR_NULLPAD)
        text.set_cset(h5py.h5t.CSET_UTF8)
        attribute = h5py.h5a.create(file[group].id, name.encode(), text, h5py.h5s.create(h5py.h5s.SCALAR))
        attribute.write(np.array(value.encode(), dtype=f"S{len(value)}"), mtype=text)


class Checkpoints(Runs):
    def refused(self, verb, path, *words, seconds=20):
        start = time.monotonic()
        done = self.headway(verb, path)
        self.assertEqual(done.returncode, 4, done.stdout)
        self.assertLess(time.monotonic() - start, seconds)
        for word in words:
            self.assertIn(word, done.stdout)
        return done.stdout

    def test_a_changed_attribute_is_found_by_its_digest(self):
        self.train("tiny", "train.stop_step=6", "checkpoint.every_steps=3")
        newest = self.newest_checkpoint("tiny")
        good = newest.read_bytes()
        for group, name, value in (("/data", "cursor", 8), ("/state", "tokens", 1), ("/", "step", 5), ("/env", "threads", 3),
                                   ("/", "created_utc", "2001-01-01T00:00:00Z"), ("/tokenizer", "kind", "symbols:9")):
            with self.subTest(attribute=name):
                newest.write_bytes(good)
                set_attribute(newest, group, name, value)
                for verb in ("inspect", "eval", "generate", "export"):
                    self.refused(verb, newest, "does not match its digest")
        resumed = self.train("tiny", "checkpoint.resume=auto", "train.stop_step=7")
        self.assertIn("skipped a checkpoint", resumed.stdout)
        self.assertIn("at step 3", resumed.stdout)

    def old_checkpoint(self, name="old.h5"):
        path = self.folder / name
        shutil.copy(OLD_FORMAT, path)
        return path

    def test_a_checkpoint_in_the_older_format_loads_with_a_sentence(self):
        path = self.old_checkpoint()
        sentence = "is in format version 1, in which no digest protects attributes"
        for verb, words in (("eval", "val/loss"), ("generate", ""), ("inspect", "/data @cursor"), ("export", "tensors")):
            data = [f"data.text={self.folder}/text/*.txt"] if verb == "eval" else []
            done = self.headway(verb, path, *data)
            self.assertEqual(done.returncode, 0, done.stdout)
            self.assertIn(sentence, done.stdout)
            self.assertIn(words, done.stdout)
        said = self.train("new", f"checkpoint.resume={path}", *OLD_MODEL, "train.stop_step=5").stdout
        self.assertIn(sentence, said)
        self.assertIn("at step 3", said)
        with h5py.File(self.newest_checkpoint("new")) as file:
            self.assertEqual(file.attrs["format_version"], 2)

    def test_values_out_of_range_are_refused_without_a_digest_too(self):
        for group, name, value, words in OUT_OF_RANGE:
            with self.subTest(attribute=name, value=value):
                path = self.old_checkpoint()
                set_attribute(path, group, name, value)
                self.refused("inspect", path, words)
                self.refused("eval", path, words)
                self.refused("generate", path, words)
                done = self.train("new", f"checkpoint.resume={path}", *OLD_MODEL, status=4)
                self.assertFalse((self.folder / "runs" / "new" / "run.json").exists(), done.stdout)

    def test_an_unloadable_newest_file_gives_way_to_the_one_before(self):
        self.train("tiny", *OLD_MODEL, "train.stop_step=2")
        folder = self.folder / "runs" / "tiny" / "checkpoints"
        bad = self.old_checkpoint(folder / "step-00000003.h5")
        set_attribute(bad, "/data", "cursor", -1)
        (folder / "latest").unlink()
        (folder / "latest").symlink_to(bad.name)
        self.assertIn("(step 2)", self.headway("eval", "runs/tiny").stdout)
        self.assertEqual(self.headway("generate", "runs/tiny").returncode, 0)
        said = self.train("tiny", *OLD_MODEL, "checkpoint.resume=auto", "train.stop_step=4").stdout
        self.assertIn("at step 2", said)
        self.assertTrue((folder / "aside" / bad.name).exists())

    def test_eval_reads_the_files_a_strangers_checkpoint_names_only_when_asked(self):
        self.train("tiny", "train.stop_step=2")
        stranger = self.folder / "stranger.h5"
        shutil.copy(self.newest_checkpoint("tiny"), stranger)
        refused = self.headway("eval", stranger)
        self.assertEqual(refused.returncode, 2, refused.stdout)
        self.assertIn("stranger.h5 lies in no run's folder", refused.stdout)
        for path, *more in ((stranger, f"data.text={self.folder}/text/*.txt"), (self.newest_checkpoint("tiny"),), ("runs/tiny",)):
            self.assertEqual(self.headway("eval", path, *more).returncode, 0)

    def test_a_run_that_saves_every_step_can_be_looked_at(self):
        process = self.start("live", "train.max_steps=1000000", "checkpoint.every_steps=1", "checkpoint.keep_last=1")
        self.wait_for_step(process, "live", 3)
        for _ in range(5):
            for verb, *more in (("eval", "eval.tokens=1"), ("inspect",), ("export", "--out", "live.h5")):
                done = self.headway(verb, "runs/live", *more)
                self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIsNone(process.poll())


if __name__ == "__main__":
    unittest.main()
