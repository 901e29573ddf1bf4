"""Take the pictures that the documentation shows: reports, `bayeslora view`, the site, the demo.

    python docs/make_screenshots.py [--site docs/_build/html] [--demo reports/demo]

Reports are the pages in `gallery/`, as `make_gallery.py` writes them. The site is that of `make
docs`, and the demo's report that of `make demo`. Chromium has to be there (`make browser`).
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from make_gallery import KEPT, PAGES
from PIL import Image, ImageChops
from playwright.sync_api import Browser, sync_playwright

from bayeslora.data.newsgroups import load_newsgroups
from bayeslora.predictions.record import Predictions
from bayeslora.reporting.viewer import view

DOCS = Path(__file__).parent
WIDTH = 1280
HEIGHTS = {"comparison": 870, "scikit-learn": 760, "view": 800}
"""Heights in pixels of pages that need more than `HEIGHT` for their first content."""

HEIGHT = 660
FIRST_SCREEN = "scikit-learn"
"""Page whose first screen, up to its links, represents all reports: `report-first-screen.webp`."""

PHONE = (390, 844)
SHEET, MARGIN = (794, 1123), 45
"""A4 and the margins of the printed page, at 96 pixels an inch."""

SITE = (
    "index",
    "tutorials/first-model",
    "methods/adapters/polar",
    "evaluation",
    "api/predictions",
    "cli",
)
"""Pages of the site in `site.webp`, wide and narrow."""

SITE_HEIGHT = 300
"""Height of each page in the picture, in pixels."""

DEMO = ("reliability-3.svg", "reliability-6.svg")
"""Figures in the demo's report: LoRA + last-layer Laplace, and PoLAR-VBLL."""


def main() -> None:
    """Write one `report-<page>.webp` per page, and the other pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=DOCS / "images")
    parser.add_argument("--site", type=Path, metavar="DIR", help="the site, for site.webp")
    parser.add_argument("--demo", type=Path, metavar="DIR", help="its report, for demo.webp")
    args = parser.parse_args()
    with chromium() as browser:
        pictures = reports(browser)
        if args.site is not None:
            pictures["site"] = contact_sheet(browser, args.site / "docs")
        if args.demo is not None:
            pictures["demo"] = side_by_side(
                browser, [args.demo / "figures" / figure for figure in DEMO]
            )
    for name, picture in pictures.items():
        picture.save(args.out / f"{name}.webp", quality=82, method=6)
        print(args.out / f"{name}.webp")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium.

    Raises:
        SystemExit: If Chromium is not installed.
    """
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise SystemExit("no chromium on this machine (make browser installs Debian's)")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def reports(browser: Browser) -> dict[str, Image.Image]:
    """Return pictures of the reports on a screen, on a phone and on paper, and of `view`."""
    gallery = DOCS / "gallery"
    pictures = {
        f"report-{name}": take(browser, gallery / name / "index.html", HEIGHTS.get(name, HEIGHT))
        for name in PAGES
    }
    first = gallery / FIRST_SCREEN / "index.html"
    pictures["report-first-screen"] = take(browser, first, 740)
    phones = [
        take(browser, gallery / name / "index.html", PHONE[1], width=PHONE[0])
        for name in ("overconfident", "comparison")
    ]
    paper = printed(browser, gallery / "overconfident" / "index.html")
    pictures["report-phone-and-print"] = beside([*phones, paper], height=PHONE[1])
    with tempfile.TemporaryDirectory() as folder:
        page = view(viewed(), out=Path(folder) / "view.html", title="Small BERT on 600 posts")
        pictures["view"] = take(browser, Path(page), HEIGHTS["view"])
    return pictures


def viewed() -> Predictions:
    """Load the stored predictions of the gallery, with their texts."""
    predictions = Predictions.load(DOCS / "gallery" / "transformers" / KEPT)
    posts = load_newsgroups().test
    texts = dict(zip(posts.ids, posts.texts, strict=True))
    return predictions.replace(columns={"text": [texts[row] for row in predictions.ids or ()]})


_NEXT_SHEET = """height => {
  for (const section of document.querySelectorAll("section"))
    for (const plate of section.querySelectorAll(".plate"))
      if (plate.getBoundingClientRect().bottom > height) section.style.visibility = "hidden";
}"""
"""Hides the sections whose figures do not fit on this sheet, and which start on the next one."""


def take(
    browser: Browser, page: Path, height: int, *, width: int = WIDTH, media: str = "screen"
) -> Image.Image:
    """Return a screenshot of the top of a page.

    Args:
        browser: Chromium.
        page: HTML file.
        height: Height in pixels.
        width: Width in pixels.
        media: `screen`, or `print`.
    """
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        tab = browser.new_page(viewport={"width": width, "height": height})
        tab.emulate_media(media="print" if media == "print" else "screen", color_scheme="light")
        tab.goto(page.resolve().as_uri())
        if media == "print":
            tab.evaluate(_NEXT_SHEET, height)
        tab.screenshot(path=shot)
        tab.close()
        return Image.open(shot).convert("RGB")


def printed(browser: Browser, page: Path) -> Image.Image:
    """Return the first sheet of a printed page."""
    width, height = (side - 2 * MARGIN for side in SHEET)
    sheet = Image.new("RGB", SHEET, "white")
    sheet.paste(take(browser, page, height, width=width, media="print"), (MARGIN, MARGIN))
    return sheet


def beside(pictures: list[Image.Image], height: int, gap: int = 24) -> Image.Image:
    """Return pictures side by side on grey, scaled to the same height."""
    scaled = [
        picture.resize(
            (round(picture.width * height / picture.height), height), Image.Resampling.LANCZOS
        )
        for picture in pictures
    ]
    width = sum(picture.width for picture in scaled) + gap * (len(scaled) + 1)
    sheet = Image.new("RGB", (width, height + 2 * gap), "#d9dee3")
    left = gap
    for picture in scaled:
        sheet.paste(picture, (left, gap))
        left += picture.width + gap
    return sheet


def contact_sheet(browser: Browser, site: Path) -> Image.Image:
    """Return pages of the site, each wide and narrow, two pages per row."""
    pairs = []
    for name in SITE:
        wide = take(browser, site / f"{name}.html", 800)
        narrow = take(browser, site / f"{name}.html", PHONE[1], width=PHONE[0])
        pairs.append(beside([wide, narrow], SITE_HEIGHT, gap=10))
    rows = [beside(pairs[place : place + 2], pairs[0].height, gap=0) for place in range(0, 6, 2)]
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    for place, row in enumerate(rows):
        sheet.paste(row, (0, place * row.height))
    return sheet


def side_by_side(browser: Browser, figures: list[Path]) -> Image.Image:
    """Return two figures of a report side by side."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "figures.html"
        images = "".join(
            f'<img width="480" src="{figure.resolve().as_uri()}">' for figure in figures
        )
        page.write_text(f'<body style="margin: 10px; width: 980px">{images}', encoding="utf-8")
        picture = take(browser, page, 700, width=1000)
    drawn = ImageChops.difference(picture, Image.new("RGB", picture.size, "white")).getbbox()
    _, _, _, bottom = drawn or (0, 0, 0, picture.height)
    return picture.crop((0, 0, picture.width, bottom + 10))


if __name__ == "__main__":
    main()
