"""The page in a real browser: it fits a phone, a screen and paper, and asks nobody for anything."""

import html
import json
import os
import re
import shutil
import subprocess
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from matplotlib.image import imread

from losslab.analysis.frames import Tracking
from losslab.analysis.report import write_comparison, write_report_files

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
HOSTILE = r"a_b % & # $x$ ^ ~ \ { } γ <script>alert(1)</script> | *b* `c`"
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Beside the page in a frame of a given width: an old headless browser has no window below 500.
FRAME = """<!DOCTYPE html><body style="margin:0">
<iframe id="page" src="{page}" style="width:{width}px;height:900px;border:0"></iframe>
<script>
document.getElementById("page").onload = function () {{
  const page = this.contentDocument, root = page.documentElement;
  const wide = [...page.querySelectorAll("body *")].filter(e => {{
    const inside = e.closest("table, pre, .picture");
    return !(inside && inside !== e) && e.getBoundingClientRect().right > root.clientWidth + 1;
  }}).map(e => e.tagName + "#" + e.id);
  const broken = [...page.images].filter(i => !i.complete || i.naturalWidth === 0).length;
  document.title = JSON.stringify({{scroll: root.scrollWidth, width: root.clientWidth,
    wide: wide, images: page.images.length, broken: broken,
    scripts: page.scripts.length, tables: page.querySelectorAll("table").length}});
}};
</script>"""


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """Runs chromium on an address; gives what it prints."""
    profile = tmp_path_factory.mktemp("profile")

    def run(*arguments):
        command = [CHROMIUM, *QUIET, f"--user-data-dir={profile}", "--virtual-time-budget=20000"]
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=180, check=False,
            env={**os.environ, "DBUS_SESSION_BUS_ADDRESS": "disabled:"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder that is served; the reports lie in it."""
    return tmp_path_factory.mktemp("site")


@pytest.fixture
def served(site):
    """The folder as a site, with every request it gets."""
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def messy_report(kept_messy, site):
    messy = kept_messy
    messy.study["question"] = f"Which of {HOSTILE}, which goes on {'and_on_' * 40}?"
    messy.study["yaml"] = "study: synthetic\nlong: " + "x" * 400 + "\n"
    messy.write("study.json", messy.study)
    frames = messy.frames()
    confirmation = frames.confirmation.assign(
        run_id=[f"{n:032x}" for n in range(len(frames.confirmation))]
    )
    frames = replace(frames, confirmation=confirmation, tracking=Tracking("sqlite:///x", "7"))
    return write_report_files(frames, site / "messy")[0]


@pytest.fixture(scope="module")
def comparison_report(kept_study, site):
    frames = {}
    for name, effect in (("one", 0.02), (HOSTILE, 0.0), ("third", -0.01)):
        writer = kept_study(
            {"ce": 0.0, HOSTILE: effect, "other": 0.01}, seeds=4, trials=3, name=name
        )
        writer.study["dataset"]["content_hash"] = name
        frames[name] = (writer.build(), writer.frames())[1]
    return write_comparison(frames, site / "several")[0]


@pytest.mark.parametrize("which", ["messy_report", "comparison_report"])
@pytest.mark.parametrize("width", [360, 1400])
def test_the_page_fits_its_window(which, width, request, browse, served, site):
    page = request.getfixturevalue(which)
    base, asked = served
    frame = FRAME.format(page=f"/{page.relative_to(site)}", width=width)
    (site / "frame.html").write_text(frame, encoding="utf-8")
    told = browse("--window-size=1500,1000", "--dump-dom", f"{base}/frame.html")
    found = json.loads(html.unescape(re.search("<title>(.*?)</title>", told, re.DOTALL).group(1)))
    assert found["width"] == width
    assert found["scroll"] <= width, found["wide"]
    assert found["wide"] == []
    assert (found["scripts"], found["broken"]) == (0, 0)
    assert found["images"] >= 2
    assert found["tables"] >= 4
    # nothing but the frame and the page was asked for
    assert {path for path in asked if "favicon" not in path} == {
        "/frame.html", f"/{page.relative_to(site)}"
    }  # fmt: skip


def test_from_disk_hostile_names_are_text(messy_report, browse):
    told = browse("--dump-dom", messy_report.as_uri())
    assert "<script" not in told
    assert told.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 5


def test_it_is_drawn_and_printed(messy_report, browse, tmp_path):
    shot, paper = tmp_path / "page.png", tmp_path / "page.pdf"
    browse("--window-size=1400,3000", f"--screenshot={shot}", messy_report.as_uri())
    pixels = imread(shot)
    assert pixels.shape[:2] == (3000, 1400)
    assert pixels[:, :, :3].std() > 0.05  # something stands on it
    browse(f"--print-to-pdf={paper}", "--no-pdf-header-footer", messy_report.as_uri())
    content = paper.read_bytes()
    assert content.startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\b", content)) > 2
