"""Smaller SVG: the same picture without what matplotlib writes and nobody sees."""

from __future__ import annotations

import re

FONTS = "'DejaVu Sans', Verdana, Arial, sans-serif"
"""Fonts of all texts, named once at the root: the layout's own, then wide ones."""

_COORDINATES = re.compile(r' (?:d|x|y)="[^"]*"')
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_GROUP = re.compile(r"(<g\b[^>]*>|</g>)")
_NO_TURN = re.compile(r' transform="rotate\(-?0 [^"]*\)"')
_OWN_FONT = re.compile(r" font-family: 'DejaVu Sans'[^;\"]*;?")


def compact(body: str) -> str:
    """Return an SVG with short coordinates and without blanks, idle groups and repeated fonts.

    Args:
        body: What matplotlib wrote, before names from outside are in it.
    """
    body = _COORDINATES.sub(_shortened, body)
    body = re.sub(r">\s+<", "><", _NO_TURN.sub("", body))
    return _without_idle_groups(_OWN_FONT.sub("", body))


def _shortened(attribute: re.Match[str]) -> str:
    """Cut coordinates to a hundredth of a point, which no screen or printer resolves."""
    short = _LONG_NUMBER.sub(lambda match: f"{float(match[0]):.2f}", attribute[0])
    return re.sub(r"\s+(?=\")", "", re.sub(r"\n", " ", short))


def _without_idle_groups(body: str) -> str:
    """Drop groups without attributes, which change nothing of what is in them."""
    kept: list[str] = []
    idle: list[bool] = []
    for part in _GROUP.split(body):
        if part == "</g>":
            if idle.pop():
                continue
        elif _GROUP.fullmatch(part) and not part.endswith("/>"):
            idle.append(part == "<g>")
            if idle[-1]:
                continue
        kept.append(part)
    return "".join(kept)
