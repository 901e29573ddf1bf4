"""Lint the documentation: some checks of proselint, and the project's own list of words.

    python docs/prose.py FILE...    (make lint)

Prints `file:line:column: message` for each finding, and exits with 1 if there is one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from proselint.checks import __register__ as known
from proselint.registry import CheckRegistry
from proselint.registry.checks import Check, types
from proselint.tools import LintFile

WORDS = {
    "too sure": "overconfident",
    "not sure enough": "underconfident",
    "unsure": "uncertain",
    "cautious": "underconfident",
    "sureness": "confidence",
    "polish(ed|es|ing)": "closed-form refit",
    "frozen prefix": "cached lower layers",
    "far texts?": "far OOD examples",
    "near texts?": "near OOD examples",
    "held means": "means of the last training step",
    "somebody": "you, or the reader's role",
    "whoever": "you, or the reader's role",
    r"tell(?:s|ing)?(?: [\w-]+){1,6} apart": "separate, distinguish",
    "told apart": "separated, distinguished",
    r"speaks? of": "apply to, reflect, describe",
    "nobody": "no one, or a passive sentence",
}
"""Regular expressions of words to avoid in the documentation, and their replacements."""

# All other checks of proselint raise false alarms on technical Markdown.
CHECKS = ("archaism", "malapropisms", "misc", "nonwords", "oxymorons", "spelling", "terms")

_HOUSE = "house"
_CODE = re.compile(r"```.*?```|~~~.*?~~~|`[^`\n]*`", re.DOTALL)


def findings(path: Path) -> list[str]:
    """Return the findings in a Markdown file, outside of its code."""
    text = _CODE.sub(lambda code: re.sub(r"[^\n]", "x", code[0]), path.read_text("utf-8"))
    enabled = dict.fromkeys((*CHECKS, _HOUSE), True)
    results = LintFile(path, text).lint({"checks": enabled, "max_errors": 1000})
    return [f"{path}:{at[0]}:{at[1]}: {result.message}" for result, at in results]


def main(files: list[str]) -> int:
    """Print the findings in the given files, and return the exit status."""
    house = Check(
        check_type=types.PreferredForms(items=WORDS), path=_HOUSE, message="write '{}', not '{}'"
    )
    CheckRegistry().register_many((*known, house))
    messages = [line for name in files for line in findings(Path(name))]
    sys.stdout.writelines(f"{line}\n" for line in messages)
    return int(bool(messages))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
