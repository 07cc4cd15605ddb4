"""report.html in a browser: all runs are drawn, in colours that the legend explains, and nothing is cut off, on a
screen or on a phone.

One run is trained and stands for every arm, its losses shifted, so that a report with many arms costs little.
"""
import html
import json
import re
import shutil
import struct
import subprocess
import unittest
import zlib

from runs import Runs

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# Twelve groups: more than there are colours.
SWEEP = """
name = "many"
[runs.plain]
recipe = "tiny.toml"
[runs.narrow]
recipe = "tiny.toml"
model.attention.window = 4
[runs.a_run_with_quite_a_long_name]
recipe = "tiny.toml"
model.attention.kind = "gated"
[grid]
optim.lr = [1e-4, 1e-3, 1e-2, 1e-1]
run.seed = [1, 2]
"""

# Written into an attribute of the page, where --dump-dom shows it. Boxes that touch do not overlap.
MEASURE = """<script>
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const box = element => element.getBoundingClientRect();
const overlap = (a, b) => a.left + 1 < b.right && b.left + 1 < a.right && a.top + 1 < b.bottom && b.top + 1 < a.bottom;
const outside = (a, b) => a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
const overlapping = elements => elements.filter((a, i) => elements.some((b, j) => i < j && overlap(box(a), box(b))));
const texts = elements => elements.map(element => element.textContent);
const measured = JSON.stringify({
  width: innerWidth,
  page_overflow: document.documentElement.scrollWidth - innerWidth,
  table_overflow: Math.max(...all(".wide").map(table => table.scrollWidth - table.clientWidth)),
  smallest_text: Math.min(...all("figure text").map(text => box(text).height)),
  cut_off: texts(all("figure text").filter(text => outside(box(text), box(text.closest("svg"))))),
  overlapping: texts(all("figure").flatMap(figure => overlapping(all("text", figure)))
      .concat(overlapping(all(".legend span")), overlapping(all("h1, h2, h3, p, figure, .wide, ul")))),
});
document.documentElement.dataset.measured = measured;
parent.postMessage(measured, "*");
</script>"""

# A browser's window has a smallest width, a frame has not.
FRAME = """<!DOCTYPE html><script>onmessage = event => document.documentElement.dataset.measured = event.data</script>
<iframe src="measured.html" width="{width}" height="900" style="border:0"></iframe>"""


def pixels_of(path):
    """The colours in a PNG of 8 bits a channel, as (red, green, blue)."""
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    packed, at = b"", 8
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at:at + 8])
        chunk = data[at + 8:at + 8 + size]
        if kind == b"IHDR":
            width, _, depth, colour_type = struct.unpack(">IIBB", chunk[:10])
            assert depth == 8 and colour_type in (2, 6)
        elif kind == b"IDAT":
            packed += chunk
        at += 12 + size
    channels = {2: 3, 6: 4}[colour_type]
    raw, stride = zlib.decompress(packed), channels * width
    above, colours = bytearray(stride), set()
    for start in range(0, len(raw), stride + 1):
        rule, row = raw[start], bytearray(raw[start + 1:start + 1 + stride])
        for i in range(stride if rule else 0):
            left, up, corner = (row[i - channels], above[i], above[i - channels]) if i >= channels else (0, above[i], 0)
            nearest = min((left, up, corner), key=lambda x, p=left + up - corner: abs(x - p))  # the first of equals
            row[i] = (row[i] + (0, left, up, (left + up) // 2, nearest)[rule]) & 255
        colours.update(zip(row[0::channels], row[1::channels], row[2::channels]))
        above = row
    return colours


class ReportPage(Runs):
    def setUp(self):
        super().setUp()
        self.browser = next(filter(None, map(shutil.which, BROWSERS)), None)
        if not self.browser:
            self.skipTest(f"none of {', '.join(BROWSERS)} is installed")
        probe = self.folder / "probe.html"
        probe.write_text('<p id="probe"></p><script>console.log("heard"); probe.append("seen")</script>')
        dom, log = self.browse(probe, "--dump-dom")
        if "seen" not in dom:
            self.skipTest(f"{self.browser} cannot open files in {self.folder} (a snap may not): {log[-300:]}")
        self.assertRegex(log, "CONSOLE.*heard")  # so a report without such a line has none

    def browse(self, page, *options, width=1200, height=1000):
        """What the browser wrote to its output and to its log."""
        done = subprocess.run(
            [self.browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
             f"--user-data-dir={self.folder}/profile", f"--window-size={width},{height}", *options, page.as_uri()],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", errors="replace", timeout=60, check=False)
        return done.stdout, done.stderr

    def write_report(self):
        """The page of a sweep whose last arm has not started and whose last but one failed; its arms."""
        self.train("tiny", "train.stop_step=12", "eval.every_steps=4")
        run = self.folder / "runs" / "tiny"
        sweep = self.write_recipe(SWEEP, "many.toml")
        arms = [f"{name}-lr{lr}-seed{seed}" for name in ("plain", "narrow", "a_run_with_quite_a_long_name")
                for lr in ("0.0001", "0.001", "0.01", "0.1") for seed in (1, 2)]
        rows = self.rows("tiny", "step")
        for shift, arm in enumerate(arms[:-1]):
            folder = self.folder / "sweeps" / "many" / "runs" / arm
            folder.mkdir(parents=True)
            record = self.record("tiny") | ({"status": "failed"} if arm == arms[-2] else {})
            (folder / "run.json").write_text(json.dumps(record))
            recipe = re.sub(r"(?m)^seed = .*", f"seed = {arm[-1]}", (run / "recipe.resolved.toml").read_text())
            (folder / "recipe.resolved.toml").write_text(recipe)
            shifted = [{key: value + 0.05 * shift if key.endswith("/loss") else value for key, value in row.items()}
                       for row in rows]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shifted))
        done = self.headway("report", sweep)
        self.assertEqual(done.returncode, 0, done.stdout)
        return self.folder / "sweeps" / "many" / "report.html", arms

    def test_a_report_of_many_arms_is_whole_and_readable(self):
        page, arms = self.write_report()
        groups = list(dict.fromkeys(arm.rsplit("-", 1)[0] for arm in arms))

        dom, log = self.browse(page, "--dump-dom")
        self.assertNotIn("CONSOLE", log)
        for body in re.findall("<tbody>(.*?)</tbody>", dom):
            self.assertEqual(re.findall("<tr><th>(.*?)</th>", body), groups)
        charts = re.findall("<figure>(.*?)</figure>", dom)
        self.assertEqual(len(charts), 6)
        for chart, num_points in zip(charts, (3, 3, 3, 12, 12, 12)):  # of validation and of training
            lines = re.findall(r'<polyline[^>]* points="(.*?)"[^>]*><title>(.*?)</title>', chart)
            self.assertEqual([title for _, title in lines], groups)
            self.assertEqual({len(points.split()) for points, _ in lines}, {num_points})
            bands = re.findall(r'<polygon[^>]* points="(.*?)"', chart)
            self.assertEqual({len(band.split()) for band in bands}, {2 * num_points})
            self.assertEqual(len(bands), len(groups))

        pairs = re.search('<table class="pairs">.*?<tbody>(.*?)</tbody>', dom).group(1)
        rows = [re.findall("<t[hd]>(.*?)</t[hd]>", row) for row in re.findall("<tr>(.*?)</tr>", pairs)]
        self.assertEqual([row[4] == "baseline" for row in rows], [group.startswith("plain") for group in groups])
        # The last group's arms have not finished, and of equal shifts nothing is in doubt.
        self.assertEqual([row[6] for row in rows[4:]], ["2"] * 7 + ["0"])
        self.assertEqual(rows[4][4:6], ["+0.4000", "+0.4000 to +0.4000"])
        self.assertEqual(rows[-1][4], "no pairs")
        self.assertEqual(re.findall("<li>(.*?)</li>", dom), [f"{arms[-2]}: failed", f"{arms[-1]}: not started"])

        legend = re.search('class="legend">(.*?)</p>', dom).group(1)
        strokes = re.findall(r'stroke="#(\w+)" stroke-dasharray="(.*?)"', legend)
        self.assertEqual(len(set(strokes)), len(groups))  # no two look alike
        self.assertLess(len(set(colour for colour, _ in strokes)), len(groups))

        self.browse(page, f"--screenshot={self.folder}/page.png", width=900, height=2200)
        colours = pixels_of(self.folder / "page.png")
        for colour, _ in strokes:
            self.assertIn(tuple(bytes.fromhex(colour)), colours)
        self.assertIn((255, 255, 255), colours)

        measured_page = page.with_name("measured.html")
        measured_page.write_text(page.read_text().replace("</body>", MEASURE + "</body>"))
        for width in (1200, 800, 500, 390, 320):
            with self.subTest(width=width):
                frame = page.with_name(f"frame{width}.html")
                frame.write_text(FRAME.format(width=width))
                dom, log = self.browse(frame, "--dump-dom", "--virtual-time-budget=2000", width=width + 100)
                self.assertNotIn("CONSOLE", log)
                measured = json.loads(html.unescape(re.search('data-measured="(.*?)"', dom).group(1)))
                self.assertEqual(measured["width"], width)
                self.assertGreaterEqual(measured["smallest_text"], 9)  # pixels
                self.assertLessEqual(measured["page_overflow"], 0)
                self.assertEqual(measured["cut_off"], [])
                self.assertEqual(measured["overlapping"], [])
                if width == 1200:  # a narrower table scrolls
                    self.assertEqual(measured["table_overflow"], 0)


if __name__ == "__main__":
    unittest.main()
