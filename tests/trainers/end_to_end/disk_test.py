"""A disk that fills while a run saves: the run ends with status 7 and what it saved before is intact."""
import pathlib
import subprocess
import unittest

from runs import Runs

# 0.9 M parameters: a checkpoint of 10 MiB, of which a disk of 24 MB holds two.
LARGE = ("model.num_layers=4", "model.model_dim=128", "checkpoint.every_steps=1", "checkpoint.keep_last=9")


class Disk(Runs):
    def full_disk(self):
        disk = self.folder / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], check=False,
                                 capture_output=True, text=True)
        if mounted.returncode != 0:
            self.skipTest(f"mounting a tmpfs is not permitted here: {mounted.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", disk], check=True)
        return disk

    def test_a_full_disk_ends_the_run_and_keeps_its_checkpoints(self):
        disk = self.full_disk()
        for ranks in (None, 2):
            done = self.train(f"full{ranks}", f"run.folder={disk}", *LARGE, ranks=ranks, status=7)
            complaint = [line for line in done.stdout.splitlines() if line.startswith("headway: ")][0]
            self.assertRegex(complaint, f"{disk}.*needs .* MiB")
            folder = disk / f"full{ranks}"
            saved = sorted(folder.glob("checkpoints/step-*.h5"))
            self.assertEqual([path.name for path in saved], ["step-00000001.h5", "step-00000002.h5"])
            self.assertFalse([path for path in pathlib.Path(folder).rglob("*.tmp.*")])
            for path in saved:
                inspected = self.headway("inspect", path)
                self.assertEqual(inspected.returncode, 0, inspected.stdout)
            for path in saved[:1]:
                path.unlink()
            resumed = self.train(f"full{ranks}", f"run.folder={disk}", *LARGE, "checkpoint.resume=auto",
                                 "train.stop_step=3", ranks=ranks)
            self.assertIn("at step 2", resumed.stdout)
            for path in folder.glob("checkpoints/step-*.h5"):
                path.unlink()


if __name__ == "__main__":
    unittest.main()
