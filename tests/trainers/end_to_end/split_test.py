"""What is held out, and that every record of a run names it."""
import re
import unittest

from runs import Runs, write_text

DIGESTS = ("digest", "train_digest", "held_out_digest")


class Split(Runs):
    def data_of(self, name, *overrides):
        """The digests in the record of a run of one step."""
        self.train(name, "train.stop_step=1", *overrides)
        return self.record(name)["data"]

    def eval(self, name, *overrides):
        done = self.headway("eval", f"runs/{name}", *overrides)
        self.assertEqual(done.returncode, 0, done.stdout)
        return re.search(r"over \d+ tokens", done.stdout)[0], "note:" in done.stdout, done.stdout

    def test_the_record_names_the_training_and_the_held_out_text(self):
        data, again, less = (self.data_of(name, *more) for name, more in (
            ("a", ()), ("b", ("optim.lr=1e-3", "model.num_layers=1")), ("c", ("data.max_bytes=100K",))))
        for digest in DIGESTS:
            self.assertRegex(data[digest], r"^[0-9a-f]{16}$")
            self.assertEqual(data[digest], again[digest])
        for digest in ("digest", "train_digest"):
            self.assertNotEqual(data[digest], less[digest])
        self.assertEqual(len(set(data.values())), 3)

    def test_the_split_seed_alone_chooses_what_is_held_out(self):
        (self.folder / "one").mkdir()
        (self.folder / "one" / "text.txt").write_text("".join(
            path.read_text() for path in sorted((self.folder / "text").iterdir())))
        one = f"data.text={self.folder}/one"
        done = self.headway("tokenize", "text", "--out", "shards")
        self.assertEqual(done.returncode, 0, done.stdout)
        shards = ("data.text=[]", f"data.tokens={self.folder}/shards/*.bin")
        task = ("data.text=[]", "data.task.kind=copy", "data.task.items=3", "data.task.vocab_size=128",
                "data.task.val_examples=30")
        for name, overrides, moves in (("documents", (), True), ("tail", (one,), False),
                                       ("blocks", (one, "data.split=blocks", "data.val_fraction=0.4"), True),
                                       ("shards", shards, False),
                                       ("shard_blocks", (*shards, "data.split=blocks", "data.val_fraction=0.4"), True),
                                       ("task", task, True)):
            with self.subTest(name=name):
                first, seed, split = (self.data_of(f"{name}{i}", *overrides, *more) for i, more in enumerate((
                    (), ("run.seed=2",), ("data.split_seed=3",))))
                self.assertEqual(first["held_out_digest"], seed["held_out_digest"])
                self.assertEqual(first["digest"], split["digest"])
                if name != "task":  # whose training examples are the seed's
                    self.assertEqual(first, seed)
                self.assertEqual(first["held_out_digest"] != split["held_out_digest"], moves)

    def test_eval_says_when_it_reads_what_the_run_did_not_hold_out(self):
        self.train("a", "train.stop_step=1")
        own = self.eval("a")
        self.assertFalse(own[1], own[2])
        self.assertEqual(self.eval("a", "run.seed=2")[:2], own[:2])
        _, noted, said = self.eval("a", "data.split_seed=3")
        self.assertTrue(noted)
        self.assertIn("another split of the same data", said)
        write_text(self.folder / "other", num_files=9, words_per_file=500)
        self.assertIn("trained with other data (", self.eval("a", f"data.text={self.folder}/other")[2])
        done = self.headway("export", "runs/a", "--to", "hdf5", "--out", "a.h5")
        self.assertEqual(done.returncode, 0, done.stdout)
        weights = self.headway("eval", "a.h5", "data.split_seed=3", f"data.text={self.folder}/text/*.txt").stdout
        self.assertIn("another split of the same data", weights)

    def test_weights_trained_with_another_split_are_pointed_out(self):
        self.train("a", "train.stop_step=1")
        same = self.train("b", "train.stop_step=1", "run.seed=2", "checkpoint.init=runs/a").stdout
        self.assertNotIn("note:", same)
        other = self.train("c", "train.stop_step=1", "data.split_seed=3", "checkpoint.init=runs/a").stdout
        self.assertRegex(other, r"note: runs/a.* was trained with another split of the same data")

    def test_a_resumed_run_keeps_its_split(self):
        first = self.data_of("a", "data.split_seed=3")
        resumed = self.train("a", "train.stop_step=2", "checkpoint.resume=auto").stdout
        self.assertIn("goes on with data.split_seed = 3, as the run began", resumed)
        self.assertEqual(self.record("a")["data"], first)
        self.assertRegex((self.folder / "runs/a/recipe.resolved.toml").read_text(), r"split_seed = 3 +# the checkpoint")
        refused = self.train("a", "train.stop_step=3", "checkpoint.resume=auto", "data.split_seed=4", status=4).stdout
        self.assertIn("data.split_seed: 3 -> 4", refused)

    def test_a_split_that_cannot_be_made_is_refused(self):
        one = f"data.text={self.folder}/text/00.txt"
        for overrides, status, says in (
                ((one, "data.split=documents"), 3, "of the documents (1 found): expected some in each split"),
                ((one, "data.split=blocks"), 3, "expected more than one block of 65536"),
                (("data.text=[]", "data.tokens=[x.bin]", "data.split=documents"), 2, "expected auto, tail or blocks"),
                (("data.split=random",), 2, "expected one of")):
            self.assertIn(says, self.train("a", *overrides, status=status).stdout)


if __name__ == "__main__":
    unittest.main()
