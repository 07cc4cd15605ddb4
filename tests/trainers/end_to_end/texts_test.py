"""Text stays on disk: it takes no memory of a run, and is watched; tokens without a known text are shown as ids."""
import array
import gzip
import os
import re
import resource
import subprocess
import unittest

from runs import Runs

MIB = 2**20
TEXT_MIB = 100


class Texts(Runs):
    def write_large(self):
        """100 MiB of text, and the same compressed. By pieces: a child's peak counts from what its parent has."""
        piece = "".join(f"line {i:>10} of text\n" for i in range(MIB // 24 + 1)).encode()[:MIB]
        large, packed = self.folder / "large.txt", self.folder / "large.txt.gz"
        with open(large, "wb") as plain, gzip.open(packed, "wb", compresslevel=1) as compressed:
            for _ in range(TEXT_MIB):
                plain.write(piece)
                compressed.write(piece)
        return large, packed

    def peak_mib(self, name, *overrides, ranks=None):
        self.train(name, "train.stop_step=2", *overrides, ranks=ranks)
        return 1024 * max(self.curve(name, "mem/peak_gib").values())

    def planned_mib(self, line, *overrides, ranks=1):
        done = self.headway("plan", self.recipe, "-n", ranks, *overrides)
        self.assertEqual(done.returncode, 0, done.stdout)
        return float(re.search(rf"^ *{line} +([\d.]+) MiB", done.stdout, re.MULTILINE)[1])

    def test_a_long_text_takes_no_memory_of_any_rank(self):
        large, packed = self.write_large()
        for ranks in (None, 2):
            small = self.peak_mib(f"small{ranks}", ranks=ranks)
            for file in (large, packed):
                text = f"data.text=[{file}]"
                with self.subTest(ranks=ranks, file=file.name):
                    peak = self.peak_mib(f"{file.name}{ranks}", text, ranks=ranks)
                    # The pieces that are read at the start.
                    self.assertLessEqual(peak, small + 0.15 * TEXT_MIB)
                    planned = self.planned_mib("peak", text, ranks=ranks or 1)
                    self.assertLessEqual(abs(planned / peak - 1), 0.2, f"planned {planned} MiB, measured {peak}")
        self.assertEqual(self.planned_mib("files", f"data.text=[{large}]"), TEXT_MIB)
        self.assertEqual(self.planned_mib("decompressed", f"data.text=[{packed}]"), TEXT_MIB)
        plain, unpacked = (self.curve(f"{file.name}2") for file in (large, packed))
        self.assertEqual(plain, unpacked)

    def test_tokenize_takes_no_memory_for_a_long_text(self):
        large, _ = self.write_large()
        done = self.headway("tokenize", large, "--out", self.folder / "shards")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn(f"{TEXT_MIB * MIB + 1} tokens in 2 shards", done.stdout)
        # Of the largest child so far, some of which trained.
        self.assertLessEqual(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 0.6 * TEXT_MIB)

    def test_a_text_that_changes_ends_the_run_and_costs_no_step(self):
        for ranks in (None, 2):
            with self.subTest(ranks=ranks):
                name = f"changed{ranks}"
                process = self.start(name, "train.max_steps=1000000", ranks=ranks)
                self.wait_for_step(process, name, 5)
                with open(self.folder / "text" / "07.txt", "a", encoding="utf-8") as file:
                    file.write("more")
                self.assertEqual(self.assert_ends(process, 60), 3, self.output_of(name))
                self.assertRegex(self.output_of(name), r"text/07\.txt: the file was changed while in use")
                saved = int(re.search(r"step-(\d+)", self.newest_checkpoint(name).name)[1])
                self.assertEqual(saved, max(self.curve(name)))

    def write_shard(self, name, ids):
        path = self.folder / name
        path.write_bytes(array.array("i", [20240520, 1, len(ids)] + [0] * 253).tobytes() +
                         array.array("H", ids).tobytes())
        return path

    def generate(self, *arguments):
        return subprocess.run([os.environ["HEADWAY_PROGRAM"], "generate", *map(str, arguments)], cwd=self.folder,
                              capture_output=True, text=True, timeout=60, check=False)

    def test_tokens_of_an_unknown_tokenizer_are_shown_as_ids(self):
        shard = self.write_shard("ids.bin", [(7 * i) % 1000 for i in range(20_000)])
        data = ("data.text=[]", f"data.tokens=[{shard}]", "model.vocab_size=1000")
        said = self.train("ids", *data, "generate.tokens=10", "train.max_steps=10").stdout
        self.assertRegex(said, r"data\.tokens holds ids of a tokenizer that is not known")
        self.assertRegex(said, r"sample:\n( \d+){11}\n")
        self.assertRegex((self.folder / "runs/ids/samples/step-00000010.txt").read_text(), r"^( \d+){11}$")

        done = self.generate("runs/ids", "--prompt", "7 14", "--tokens", 5)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"^7 14( \d+){5}\n$")
        self.assertRegex(done.stderr, r"text is written as ids from 0 to 999")
        for prompt in (["--prompt", "hello"], ["--prompt", ""], ["--prompt", "1000"], []):
            done = self.generate("runs/ids", *prompt)
            self.assertEqual((done.returncode, done.stdout), (3, ""), done.stderr)
            self.assertIn("expected ids from 0 to 999", done.stderr)
        # A run goes on, is evaluated and exported as any other; text it cannot read.
        self.train("ids", *data, "train.max_steps=10", "train.stop_step=0", "--resume")
        self.assertEqual(self.headway("eval", "runs/ids").returncode, 0)
        refused = self.headway("eval", "runs/ids", "--text", self.folder / "text/00.txt")
        self.assertEqual(refused.returncode, 2, refused.stdout)
        self.assertIn("expected token shards in data.tokens", refused.stdout)
        self.assertEqual(self.headway("export", "runs/ids", "--out", "ids.h5").returncode, 0)
        self.assertEqual(self.generate("ids.h5", "--prompt", "1", "--tokens", 3).returncode, 0)

    def test_shards_of_bytes_are_shown_as_text(self):
        self.assertEqual(self.headway("tokenize", "text", "--out", "shards").returncode, 0)
        data = ("data.text=[]", f"data.tokens=[{self.folder}/shards/*.bin]")
        said = self.train("bytes", *data, "generate.tokens=20", "train.max_steps=10").stdout
        self.assertNotIn("not known", said)
        done = self.headway("generate", "runs/bytes", "--prompt", "hello")
        self.assertEqual(done.returncode, 0)
        self.assertTrue(done.stdout.startswith("hello"), done.stdout)


if __name__ == "__main__":
    unittest.main()
