"""Trial of untrusted regular expressions in a process that can be stopped."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from bayeslora.errors import InputError

_SECONDS = 3.0
_SPECIAL = re.compile(r"[*+?{|(]")
_OPTIONS = (
    "target_modules",
    "exclude_modules",
    "feedforward_modules",
    "target_parameters",
    "modules_to_save",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
)

# The four ways in which PEFT matches module names with a pattern.
_TRIAL = r"""
import json, re, sys
content = json.load(sys.stdin)
for pattern in content["patterns"]:
    for form in ("%s", r"(?:.*\.)?(?:%s)$", r"(?:^|.*\.)(?:%s)(?:$|\..*)", r".*\.(?:%s)\.(\d+)\."):
        whole = re.compile(form.replace("%s", pattern))
        for name in content["names"]:
            whole.fullmatch(name)
            whole.match(name)
"""


def pattern_options(options: Mapping[str, Any]) -> list[str]:
    """Return every pattern in PEFT's options, ignoring options of a wrong type."""
    values = [options.get(key) for key in _OPTIONS]
    lists = [[value] if isinstance(value, str) else value for value in values]
    return [
        item
        for value in lists
        if isinstance(value, list | tuple | dict)
        for item in value
        if isinstance(item, str)
    ]


def check_patterns(prefix: str, patterns: Iterable[str], names: Collection[str]) -> None:
    """Raise InputError if matching names with patterns takes more than seconds.

    Python's `re` takes exponential time for a pattern such as `(a*)*b` and cannot be interrupted.
    The patterns are therefore first matched with the same names in another process, which is
    killed after a time limit. Plain names are not tried.

    Args:
        prefix: Beginning of the message.
        patterns: Regular expressions.
        names: Names to match.
    """
    special = [pattern for pattern in dict.fromkeys(patterns) if _SPECIAL.search(pattern)]
    if not special:
        return
    content = json.dumps({"patterns": special, "names": list(names)})
    try:
        subprocess.run(  # noqa: S603 - a constant program, and data on its standard input
            [sys.executable or "python3", "-I", "-S", "-c", _TRIAL],
            input=content.encode("ascii"),
            capture_output=True,
            timeout=_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"{prefix}: its patterns take too long to match (over {_SECONDS:g} s); one of them "
            "may contain nested repetition, such as (a*)*"
        ) from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise InputError(f"{prefix}: its patterns cannot be matched: {reason[:200]}") from None
