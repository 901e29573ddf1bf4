"""Formulas of the glossary: a line of text, and the same as MathML for screen readers.

In the line, `_` starts an index, in braces if it has several tokens; `/` makes a fraction, with
parts in brackets if they contain blanks; `²` after a bracket squares it, `√(…)` is a root, `1[…]`
is an indicator function, and a name directly before a bracket is a function. Quotes hold words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape

_TOKEN = re.compile(r'\s*("[^"]*"|√\(|1\[|\d[\d.]*|[^\W\d_][^\W_]*|\S)')
_OPERATORS = frozenset("=+−·±≠≤≥<>∈()[]{},:∑")
_CLOSED_BY = {"(": ")", "√(": ")", "1[": "]", "|": "|", "‖": "‖"}
_SPACE = '<mspace width="0.2em"></mspace>'


@dataclass(frozen=True)
class Formula:
    """A formula.

    Attributes:
        source: The line, with quotes around words.
    """

    source: str

    @property
    def text(self) -> str:
        """The line without quotes."""
        return self.source.replace('"', "")

    @property
    def element(self) -> str:
        """Presentation MathML for an HTML page."""
        body = _Reader(self.source).sequence("")
        return f'<math display="block"><mrow>{body}</mrow></math>'


class _Reader:
    """Parser of a line, from left to right."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._position = 0

    def sequence(self, end: str) -> str:
        """Return everything up to `end`, which is consumed."""
        parts = []
        while (sign := self._next()) not in (end, ""):
            parts.append(self._item(sign)[0])
        return "".join(parts)

    def _next(self) -> str:
        match = _TOKEN.match(self._source, self._position)
        if match is None:
            return ""
        self._position = match.end()
        return match[1]

    def _follows(self, sign: str) -> bool:
        """Return whether a sign is next, and consume it."""
        follows = self._source.startswith(sign, self._position)
        self._position += len(sign) * follows
        return follows

    def _item(self, sign: str) -> tuple[str, str]:
        """Return the item that starts with a sign, and its form as a part of a fraction."""
        item, part = self._atom(sign)
        if self._follows("_"):
            index = _grouped(self.sequence("}") if self._follows("{") else _leaf(self._next()))
            item = f"<msub>{_grouped(item)}{index}</msub>"
            if sign in {"∑", "max"}:
                item = f"<munder>{_leaf(sign)}{index}</munder>{_SPACE}"
            part = item
        if self._follows("²"):
            item = part = f"<msup>{item}<mn>2</mn></msup>"
        if self._follows("/"):
            below = self._item(self._next())[1]
            item = part = f"<mfrac>{_grouped(part)}{_grouped(below)}</mfrac>"
        return item, part

    def _atom(self, sign: str) -> tuple[str, str]:
        """Return a sign with its enclosed content, and the same without outer brackets."""
        if sign not in _CLOSED_BY:
            leaf = _leaf(sign)
            if sign.isalpha() and self._follows("("):
                leaf = _grouped(f"{leaf}<mo>(</mo>{self.sequence(')')}<mo>)</mo>")
            return leaf, leaf
        inner, last = self.sequence(_CLOSED_BY[sign]), f"<mo>{_CLOSED_BY[sign]}</mo>"
        if sign == "√(":
            inner = f"<msqrt>{inner}</msqrt>"
            return inner, inner
        if sign == "1[":
            inner = f"<mn>1</mn>{_grouped(f'<mo>[</mo>{inner}{last}')}"
            return inner, inner
        around = _grouped(f"<mo>{sign}</mo>{inner}{last}")
        return around, inner if sign == "(" else around


def _leaf(sign: str) -> str:
    if sign.startswith('"'):
        return f"<mtext>{escape(sign[1:-1])}</mtext>"
    safe = escape(sign)
    if sign[0].isdecimal():
        return f"<mn>{safe}</mn>"
    if sign in _OPERATORS:
        return f"<mo>{safe}</mo>"
    return f"<mi>{safe}</mi>{_SPACE if sign == 'log' else ''}"


def _grouped(mathml: str) -> str:
    return f"<mrow>{mathml}</mrow>"
