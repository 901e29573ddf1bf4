"""The report in a real browser: it renders, and asks for nothing."""

import shutil
import subprocess

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")


def run(made, tmp_path, *options):
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}",
        *options,
        (made / "index.html").as_uri(),
    ]
    return subprocess.run(command, capture_output=True, timeout=120, check=True)


def test_the_page_parses_without_a_complaint(made, tmp_path):
    finished = run(made, tmp_path, "--dump-dom")
    dom = finished.stdout.decode("utf-8")
    assert dom.count("<svg") == (made / "index.html").read_text(encoding="utf-8").count("<svg")
    assert "What was run" in dom
    complaints = [line for line in finished.stderr.splitlines() if b"CONSOLE" in line]
    assert complaints == []


@pytest.mark.parametrize("width", [1280, 768])
def test_the_page_paints(made, tmp_path, width):
    from matplotlib.image import imread

    picture = tmp_path / "page.png"
    run(made, tmp_path, f"--window-size={width},1600", f"--screenshot={picture}")
    pixels = imread(picture)
    assert pixels.shape[1] == width
    # dark text on light paper, and something in colour
    assert pixels[..., :3].min() < 0.2
    assert pixels[..., :3].mean() > 0.8
