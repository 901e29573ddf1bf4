"""Values that occur in foreign files and should not occur in ours."""

from __future__ import annotations

import random
from typing import Any

TEXTS = (
    "",
    " ",
    "\t\n",
    "\x00",
    "a\x00b",
    "\ud800",
    "x\udfff y",
    "\ufeffcat",
    "\x1b[2J\x1b]0;owned\x07",
    "\x07\x08\x7f",
    "\u202erab\u202c cat",
    "c\u200ba\u2060t",
    "e" + "\u0301" * 300,
    "a\r\nb\rc",
    "word " * 4000,
    "x" * 70_000,
    "=cmd|' /C calc'!A0",
    "{{ 7 * 7 }}",
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "𝕏" * 50,
    "null",
    "NaN",
    "-0",
    "1e999",
    "١٢",
)
NUMBERS: tuple[Any, ...] = (
    0,
    -1,
    -0.0,
    1.5,
    0.1 + 0.2,
    1e-320,
    1e308,
    2**31,
    2**53 + 1,
    2**63,
    -(2**64),
    10**30,
    float("nan"),
    float("inf"),
    float("-inf"),
    True,
)
RAW = (
    "1e400",
    "-1e400",
    "9" * 4301,
    "0." + "3" * 5000,
    "[" * 100_000,
    '{"a":' * 50_000,
    "[" * 900 + "]" * 900,
    "undefined",
    "'single'",
    "01",
    "+1",
    ".5",
    "1.",
    "0x10",
    "1_000",
    '"\\ud800"',
    '"\\u0000"',
    '"\\x41"',
    '"unterminated',
    "// comment\n1",
    "None",
)
"""Written verbatim in place of a JSON value."""


def value(chance: random.Random) -> Any:
    """Return a value that JSON can represent, mostly of a wrong kind or size."""
    kind = chance.randrange(6)
    if kind == 0:
        return chance.choice(TEXTS)
    if kind == 1:
        return chance.choice(NUMBERS)
    if kind == 2:
        return None
    if kind == 3:
        return [value(chance) for _ in range(chance.randrange(3))]
    if kind == 4:
        return {chance.choice(TEXTS): value(chance) for _ in range(chance.randrange(3))}
    return chance.choice(["cat", "animals", "0", "true", 3, 0.25, False])
