"""A drawn figure: the same bytes on every run, whatever the style of a user or a notebook."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure


@contextmanager
def drawing_style() -> Iterator[None]:
    """Use matplotlib's defaults and `templates/figures.mplstyle`.

    Settings of a user or a notebook (fonts, TeX, a style sheet) have no effect and are preserved.
    """
    sheet = Path(__file__).parent / "templates" / "figures.mplstyle"
    with style.context(["default", sheet]), warnings.catch_warnings():
        # A name may have letters that the font lacks.
        warnings.filterwarnings("ignore", "Glyph")
        warnings.filterwarnings("ignore", "Matplotlib currently does not support")
        yield


_METADATA: Mapping[str, Mapping[str, Any]] = {
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}


@dataclass(frozen=True)
class Panel:
    """A drawn figure.

    `name` is the stem of its file, unique in a report: letters, digits and hyphens. `description`
    says what it shows in words and numbers, for people who cannot see it.
    """

    name: str
    figure: Figure
    title: str
    description: str

    def saved(self, kind: str) -> bytes:
        """Return the content of its file in a format; the same on every run."""
        described = "Subject" if kind == "pdf" else "Description"
        about = {**_METADATA[kind], "Title": self.title, described: self.description}
        buffer = io.BytesIO()
        with drawing_style():
            self.figure.savefig(buffer, format=kind, dpi=300, metadata=about)
        return buffer.getvalue()

    @cached_property
    def image(self) -> str:
        """The SVG as a data URI, for a page."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.saved('svg')).decode()}"
