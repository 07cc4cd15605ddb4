"""What is held out, and that every record of a run names it."""
import unittest

from runs import Runs


class Split(Runs):
    def data_of(self, name, *overrides):
        """The digests in the record of a run of one step."""
        self.train(name, "train.stop_step=1", *overrides)
        return self.record(name)["data"]

    def test_the_record_names_the_training_and_the_held_out_text(self):
        data, again, less = (self.data_of(name, *more) for name, more in (
            ("a", ()), ("b", ("optim.lr=1e-3", "model.num_layers=1")), ("c", ("data.max_bytes=100K",))))
        for digest in ("digest", "train_digest", "held_out_digest"):
            self.assertRegex(data[digest], r"^[0-9a-f]{16}$")
            self.assertEqual(data[digest], again[digest])
        for digest in ("digest", "train_digest"):
            self.assertNotEqual(data[digest], less[digest])
        self.assertEqual(len(set(data.values())), 3)


if __name__ == "__main__":
    unittest.main()
