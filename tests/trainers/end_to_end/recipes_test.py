"""A recipe that cannot be run is refused with one sentence that names file, line, key, value and expectation."""
import re
import unittest

from runs import RECIPE, Runs


class Recipes(Runs):
    def refuse(self, *overrides, recipe=None, status=2, says=(), ranks=None):
        done = self.headway("train", recipe or self.recipe, "run.name=refused", *overrides, ranks=ranks, seconds=60)
        self.assertEqual(done.returncode, status, done.stdout)
        # Rank 0 speaks first; under load another rank may manage to say the same.
        complaints = list({re.sub("^headway: (rank [0-9]+: )?", "", line) for line in done.stdout.splitlines()
                           if line.startswith("headway: ")})
        self.assertEqual(len(complaints), 1, done.stdout)
        for text in says:
            self.assertIn(text, complaints[0])
        self.assertFalse(list(self.folder.glob("runs/refused/checkpoints/*")))

    def changed(self, old, new):
        text = RECIPE.format(folder=self.folder)
        self.assertIn(old, text)
        return self.write_recipe(text.replace(old, new), "bad.toml"), text[:text.index(old)].count("\n") + 1

    def test_a_recipe_names_file_line_key_and_value(self):
        for old, new, key, value, expectation in (
                ("lr = 1e-2", "learning_rate = 1e-2", "optim.learning_rate", "0.01", "optim.lr"),
                ("lr = 1e-2", "lrr = 1e-2", "optim.lrr", "0.01", "lr"),
                ("lr = 1e-2", 'lr = "fast"', "optim.lr", "fast", "number"),
                ("lr = 1e-2", "lr = -1", "optim.lr", "-1", "0 to 10"),
                ("lr = 1e-2", "lr = nan", "optim.lr", "nan", "0 to 10"),
                ("num_layers = 2", "num_layers = 2.5", "model.num_layers", "2.5", "integer"),
                ("num_layers = 2", "num_layers = 0", "model.num_layers", "0", "1 to 1000"),
                ("seq_len = 32", "seq_len = []", "data.seq_len", "[]", "integer"),
                ("attention.num_heads = 2", 'attention.kind = "sotfmax"', "model.attention.kind", "sotfmax",
                 "softmax")):
            with self.subTest(new=new):
                recipe, line = self.changed(old, new)
                self.refuse(recipe=recipe, says=(f"bad.toml:{line}", key, value, expectation))

    def test_a_syntax_error_names_file_and_line(self):
        recipe, line = self.changed("lr = 1e-2", "lr = = 1")
        self.refuse(recipe=recipe, says=(f"bad.toml:{line}",))

    def test_overrides_are_checked_alike(self):
        self.refuse("optim.lr=-1", says=("command line", "optim.lr", "-1", "0 to 10"))
        self.refuse("train.micro_bach=4", says=("train.micro_bach", "train.micro_batch"))
        self.refuse("nonsense", says=("nonsense", "section.key=value"))

    def test_a_batch_that_does_not_divide_names_the_nearest(self):
        self.refuse("train.batch_tokens=500", says=("500", "384", "512"))
        self.refuse("train.batch_tokens=640", ranks=2, says=("640", "2 ranks", "512", "768"))

    def test_keys_that_contradict_each_other_are_refused(self):
        self.refuse("train.max_tokens=10K", says=("train.max_steps", "train.max_tokens"))
        self.refuse("model.attention.num_heads=3", says=("num_heads = 3", "model_dim = 32"))
        self.refuse("schedule.warmup_steps=40", says=("schedule.warmup_steps = 40",))

    def test_a_run_keeps_its_recipe_as_given_and_as_resolved(self):
        self.train("kept", "train.stop_step=1")
        folder = self.folder / "runs" / "kept"
        self.assertEqual((folder / "recipe.toml").read_text(), self.recipe.read_text())
        resolved = (folder / "recipe.resolved.toml").read_text()
        self.assertRegex(resolved, r"stop_step = 1 +# command line")
        self.assertRegex(resolved, r"lr = 0.01 +# .*tiny.toml:\d+")
        again = self.headway("train", folder / "recipe.resolved.toml", "run.name=again")
        self.assertEqual(again.returncode, 0, again.stdout)
        self.assertEqual(self.curve("kept"), self.curve("again"))

    def test_a_missing_recipe_or_verb_is_usage(self):
        self.refuse(recipe=self.folder / "nowhere.toml", says=("nowhere.toml", "does not exist"))
        done = self.headway("trian", self.recipe)
        self.assertEqual(done.returncode, 2)
        self.assertIn("train", done.stdout)

    def test_missing_data_is_status_three(self):
        missing = f'data.text=["{self.folder}/nowhere/*.txt"]'
        self.refuse(missing, status=3, says=("data.text", "nowhere"))
        self.refuse(missing, status=3, ranks=2, says=("data.text", "nowhere"))
        (self.folder / "text" / "short").mkdir()
        (self.folder / "text" / "short" / "a.txt").write_text("abc")
        self.refuse(f'data.text=["{self.folder}/text/short/a.txt"]', status=3, says=("data",))


if __name__ == "__main__":
    unittest.main()
