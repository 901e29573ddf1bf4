"""The rules for every malformed input, for all verbs."""

from __future__ import annotations

import re
from pathlib import Path

from .process import Outcome, run
from .trees import changes, tree

_RAW = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LONGEST = 4000  # characters of a message: some list all allowed values


def broken(outcome: Outcome) -> list[tuple[str, str]]:
    """Return the broken rules: no traceback, no hang, exit 0 or 2, a short message."""
    problems = []
    tail = outcome.err[-300:].strip()
    if outcome.hung:
        problems.append(("hang", f"{outcome.cpu:.1f} s of CPU"))
    elif outcome.code < 0:
        problems.append(("died", f"signal {-outcome.code}: {tail}"))
    elif outcome.code not in {0, 2}:
        problems.append(("exit 1", f"exit {outcome.code}: {tail}"))
    if "Traceback (most recent call last)" in outcome.err:
        problems.append(("traceback", tail))
    raw = _RAW.search(outcome.err + outcome.out)
    if raw:
        problems.append(("raw terminal", f"{raw.group()!r} in {tail!r:.300}"))
    errors = outcome.err.rpartition("bayeslora: error: ")[2]
    if outcome.code == 2 and (len(errors) > _LONGEST or errors.strip().count("\n") > 1):
        problems.append(("long message", f"{len(errors)} characters: {errors[:200]!r}"))
    if outcome.code == 2 and "weights_only" in outcome.err:
        problems.append(("bad advice", tail))
    return problems


def obeyed(
    argv: tuple[object, ...], room: Path, *, may_write: tuple[str, ...] = ()
) -> tuple[Outcome, list[tuple[str, str]]]:
    """Run a command in a room; return its outcome and the broken rules.

    Args:
        argv: The command's arguments.
        room: Its working directory.
        may_write: Paths in the room that may be new or changed after exit code 0.
    """
    before = tree(room)
    outcome = run(argv, room)
    problems = broken(outcome)
    changed = changes(before, tree(room))
    if outcome.code == 2 and changed:
        problems.append(("wrote", f"{changed[:5]}"))
    if outcome.code == 0:
        stray = [
            name
            for name in changed
            if not any(name[1:] == path or name[1:].startswith(f"{path}/") for path in may_write)
        ]
        if stray:
            problems.append(("stray", f"{stray[:5]}"))
    return outcome, problems
