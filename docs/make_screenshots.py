"""Take the pictures of reports and of `bayeslora view` that the documentation shows.

    python docs/make_screenshots.py

They are of the pages in `gallery/`, as these are; `make_gallery.py` writes the pages. Chromium has
to be there (`make browser`).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from make_gallery import KEPT, PAGES
from PIL import Image

from bayeslora.predictions.record import Predictions
from bayeslora.reporting.viewer import view
from bayeslora.tasks.newsgroups import load_newsgroups

DOCS = Path(__file__).parent
WIDTH = 1280
HEIGHTS = {"comparison": 870, "scikit-learn": 760, "view": 800}
"""Heights of pages that need more than `HEIGHT` to show what they say first, in pixels."""

HEIGHT = 660
FIRST_SCREEN = "scikit-learn"
"""The page whose first 1280 × 800 pixels stand for all reports, as `report-first-screen.webp`."""


def main() -> None:
    """Write the pictures, one `report-<page>.webp` each, and `view.webp`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=DOCS / "images")
    args = parser.parse_args()
    for name in PAGES:
        page = DOCS / "gallery" / name / "index.html"
        take(page, args.out / f"report-{name}.webp", HEIGHTS.get(name, HEIGHT))
        if name == FIRST_SCREEN:
            take(page, args.out / "report-first-screen.webp", 800)
    with tempfile.TemporaryDirectory() as aside:
        page = view(viewed(), out=Path(aside) / "view.html", title="Small BERT on 600 posts")
        take(Path(page), args.out / "view.webp", HEIGHTS["view"])


def viewed() -> Predictions:
    """Return the predictions that the gallery keeps, with the texts they are of."""
    predictions = Predictions.load(DOCS / "gallery" / "transformers" / KEPT)
    posts = load_newsgroups().test
    texts = dict(zip(posts.ids, posts.texts, strict=True))
    return predictions.replace(columns={"text": [texts[one] for one in predictions.ids or ()]})


def take(page: Path, picture: Path, height: int) -> None:
    """Write the first `height` pixels of a page as a WebP picture."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        raise SystemExit("no chromium on this machine (make browser installs Debian's)")
    with tempfile.TemporaryDirectory() as aside:
        shot = Path(aside) / "shot.png"
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
        where = (f"--user-data-dir={aside}/profile", f"--screenshot={shot}")
        size = f"--window-size={WIDTH},{height}"
        command = [browser, *options, *where, size, page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        Image.open(shot).convert("RGB").save(picture, quality=82, method=6)
    print(picture)


if __name__ == "__main__":
    main()
