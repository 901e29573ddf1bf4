"""`python -m bayeslora` is `bayeslora`."""

from __future__ import annotations

import sys

from bayeslora.cli import main

if __name__ == "__main__":
    sys.exit(main())
