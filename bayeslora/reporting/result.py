"""What `report` returns: the path of the page, which a notebook shows as the page itself."""

from __future__ import annotations

import json
import sys
from html import escape

if sys.platform == "win32":  # a class of paths can be derived from the system's own class alone
    from pathlib import WindowsPath as SystemPath
else:
    from pathlib import PosixPath as SystemPath

HEIGHT = 640
"""Height of the page in a notebook, in pixels."""


class Report(SystemPath):
    """The path of a report's `index.html`: a `pathlib.Path` in every respect.

    In a notebook, as the last value of a cell, it shows the page in a frame that can reach neither
    the notebook nor the network.
    """

    def _repr_html_(self) -> str | None:
        """Return the page in a frame; None where this is no page, such as the directory."""
        if self.suffix != ".html" or not self.is_file():
            return None
        page = escape(self.read_text(encoding="utf-8"), quote=True)
        caption = escape(self._caption(), quote=True)
        return (
            f'<figure style="margin: 0"><figcaption>{caption}</figcaption>'
            f'<iframe title="{caption}" sandbox="allow-scripts"'
            f' style="width: 100%; height: {HEIGHT}px; border: 1px solid #d9dee3"'
            f' srcdoc="{page}"></iframe></figure>'
        )

    def _caption(self) -> str:
        """Return the title, the methods and their rows; the path where nothing says them."""
        try:
            content = json.loads(self.with_name("scores.json").read_text(encoding="utf-8"))
            pooled = {label for one in content["over_seeds"] for label in one["fits"]}
            methods = [*content["over_seeds"], *content["methods"]]
            labels = [one["label"] for one in methods if one["label"] not in pooled]
            sizes = sorted({one["n"] for one in methods})
            title = content["title"]
        except (OSError, ValueError, KeyError, TypeError):
            return str(self)
        rows = " or ".join(f"{size:,}" for size in sizes)
        return f"{title}: {', '.join(labels)}; {rows} rows"
