"""Tables of what papers claim and what the studies found, from stored results; nothing is fitted.

Writes `docs/claims.md` (PoLAR-VBLL) and `reports/adapter-claims/summary.md` (adapters).

    python -m benchmarks.claims
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bayeslora.io.files import atomic_file
from benchmarks.claims import adapters, polar_vbll


def main() -> None:
    """Write both pages."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--reports", type=Path, default=Path("reports"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    args = parser.parse_args()
    pages = {
        args.reports / "adapter-claims" / "summary.md": adapters.page(args.reports),
        args.docs / "claims.md": polar_vbll.page(args.reports),
    }
    for path, text in pages.items():
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
