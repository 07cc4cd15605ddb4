"""What `plan` predicts is what a run measures."""
import re
import unittest

from runs import RECIPE, Runs

MEDIUM = ("model.num_layers=4", "model.model_dim=256", "model.attention.num_heads=4", "data.seq_len=256",
          "train.micro_batch=8", "train.batch_tokens=4096", "train.stop_step=2", "schedule.warmup_steps=1",
          "eval.final_tokens=1")


class Plan(Runs):
    def predict(self, *overrides, ranks=1):
        done = self.headway("plan", self.recipe, "-n", ranks, *overrides)
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def check_peak(self, name, *overrides, ranks=None):
        text = self.predict(*overrides, ranks=ranks or 1)
        predicted = float(re.search(r"^ *peak +([\d.]+) MiB", text, re.MULTILINE)[1])
        self.train(name, *overrides, ranks=ranks)
        measured = 1024 * max(self.curve(name, "mem/peak_gib").values())
        self.assertLessEqual(abs(predicted / measured - 1), 0.15, f"predicted {predicted} MiB, measured {measured}")

    def test_peak_memory_is_within_15_percent(self):
        self.check_peak("plain", *MEDIUM)
        self.check_peak("ranks", *MEDIUM, ranks=2)
        long = (*MEDIUM, "model.attention.kind=lightning", "data.seq_len=1024", "train.micro_batch=2",
                "train.context_parallel=2")
        self.check_peak("shared sequences", *long, ranks=2)
        self.assertRegex(self.predict(*long, ranks=2), r"states received +[\d.]+ MiB +per micro-batch, of 2 ranks")
        self.check_peak("recompute", *MEDIUM, "train.recompute=true")
        self.check_peak("gelu", *MEDIUM, "model.mlp=gelu", "model.norm=layer_norm", "model.tied_head=false")

    def test_parameters_and_work_follow_from_the_shape(self):
        text = self.predict()
        # 64 x 32 table, 2 blocks of 4 x 32^2 attention, 3 x 32 x 128 feed-forward and two norms, a last norm.
        count = 64 * 5 * 32 + 2 * (4 * 32**2 + 3 * 32 * 128 + 2 * 32) + 32
        self.assertRegex(text, rf"all .*\b{count}\b")

    def test_matched_parameters_are_as_near_as_a_step_of_eight_comes(self):
        self.write_recipe(RECIPE.format(folder=self.folder), "softmax.toml")
        target = 64 * 5 * 32 + 2 * (4 * 32**2 + 3 * 32 * 128 + 2 * 32) + 32
        for kind, extra in (("gated", 2 * 32 * 32), ("softmax", 0)):  # a gate per channel in two layers
            done = self.headway("plan", self.recipe, f"model.attention.kind={kind}", "--match", "softmax")
            self.assertEqual(done.returncode, 0, done.stdout)
            self.assertIn(f"Parameters beside the {target} of {self.folder}/softmax.toml", done.stdout)
            (present, count), (nearest, matched) = re.findall(r"mlp_dim = (\d+) +(\d+)", done.stdout)
            self.assertEqual((int(present), int(count)), (128, target + extra))
            step = 2 * 3 * 32 * 8
            self.assertLessEqual(2 * abs(int(matched) - target), step)
            self.assertEqual(int(matched), int(count) + (int(nearest) - 128) // 8 * step)
        done = self.headway("plan", self.recipe, "--match", "nowhere")
        self.assertEqual(done.returncode, 2)
        self.assertIn("nowhere.toml does not exist", done.stdout)

    def work(self, *overrides):
        """MFLOP per token of both directions: executed, ideal."""
        lines = re.findall(r"^ *(?:for|back)ward +([\d.]+) MFLOP +ideal ([\d.]+) MFLOP", self.predict(*overrides),
                           re.MULTILINE)
        self.assertEqual(len(lines), 2)
        return [sum(map(float, column)) for column in zip(*lines)]

    def test_executed_work_stands_beside_the_ideal(self):
        large = ("data.seq_len=512", "train.batch_tokens=4096", "model.model_dim=256", "model.attention.num_heads=8")
        softmax = self.work(*large)
        self.assertGreater(softmax[0], softmax[1])
        moh = self.work(*large, "model.attention.kind=moh")
        self.assertLess(moh[0], softmax[0])  # the heads that tokens use, and the router
        self.assertGreater(moh[0], moh[1])
        self.assertLess(moh[1], softmax[1])
        few = self.work(*large, "model.attention.kind=dynamic_mask", "model.attention.top_w=8")
        many = self.work(*large, "model.attention.kind=dynamic_mask", "model.attention.top_w=256")
        self.assertEqual(few[0], many[0])  # every pair, whatever is kept
        self.assertLess(few[1], many[1])
        again = self.work(*large, "train.recompute=true")
        self.assertGreater(again[0], 1.2 * softmax[0])
        self.assertEqual(again[1], softmax[1])


if __name__ == "__main__":
    unittest.main()
