"""Formulas written once: as MathML, which can be read aloud, and as a line of text.

A formula is put together from pieces: strings of tokens between blanks, and the few layouts that a
line of text has no letters for.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

_OPERATORS = frozenset("=+−·±≠≤≥<>∈()[]{},:∑")
_FUNCTIONS = frozenset({"log"})
_SPACE = '<mspace width="0.2em"></mspace>'


@dataclass(frozen=True)
class Formula:
    """A formula or a piece of one.

    Attributes:
        mathml: Elements of Presentation MathML, without the outer `math`.
        text: The same in one line.
    """

    mathml: str
    text: str

    @property
    def element(self) -> str:
        """The whole as an element for an HTML page."""
        return f'<math display="block"><mrow>{self.mathml}</mrow></math>'


Piece = Formula | str


def row(*pieces: Piece) -> Formula:
    """Return pieces one after the other."""
    parts = [part for piece in pieces for part in _parts(piece)]
    return Formula("".join(part.mathml for part in parts), _joined([part.text for part in parts]))


def words(text: str) -> Formula:
    """Return words in the middle of a formula, with the blanks between them."""
    return Formula(f"<mtext>{escape(text)}</mtext>", text.strip())


def fraction(above: Piece, below: Piece) -> Formula:
    """Return a fraction."""
    top, bottom = row(above), row(below)
    written = "/".join(text if " " not in text else f"({text})" for text in (top.text, bottom.text))
    return Formula(f"<mfrac>{_grouped(top)}{_grouped(bottom)}</mfrac>", written)


def sub(base: Piece, index: Piece) -> Formula:
    """Return a piece with an index."""
    main, low = row(base), row(index)
    return Formula(f"<msub>{_grouped(main)}{_grouped(low)}</msub>", f"{main.text}_{_tight(low)}")


def bracketed(inner: Piece) -> Formula:
    """Return a piece in round brackets, which grow with it alone."""
    body = row("(", inner, ")")
    return Formula(_grouped(body), body.text)


def squared(base: Piece) -> Formula:
    """Return the square of a piece in brackets."""
    inner = bracketed(base)
    return Formula(f"<msup>{inner.mathml}<mn>2</mn></msup>", f"{inner.text}²")


def absolute(inner: Piece) -> Formula:
    """Return an absolute value, or the size of a set."""
    body = row(inner)
    return Formula(f"<mrow><mo>|</mo>{body.mathml}<mo>|</mo></mrow>", f"|{body.text}|")


def norm(inner: Piece, kind: str) -> Formula:
    """Return a norm, with its kind as an index."""
    body = row(inner)
    mathml = f"<mrow><mo>‖</mo>{body.mathml}<mo>‖</mo></mrow>"
    return sub(Formula(mathml, f"‖{body.text}‖"), kind)


def call(name: str, inner: Piece) -> Formula:
    """Return a function of something."""
    body = row(inner)
    mathml = f"<mi>{escape(name)}</mi><mo>(</mo>{body.mathml}<mo>)</mo>"
    return Formula(f"<mrow>{mathml}</mrow>", f"{name}({body.text})")


def root(inner: Piece) -> Formula:
    """Return a square root."""
    body = row(inner)
    return Formula(f"<msqrt>{body.mathml}</msqrt>", f"√({body.text})")


def under(sign: str, index: Piece) -> Formula:
    """Return a sign such as ∑ or max over an index, which stands below it."""
    main, low = row(sign), row(index)
    mathml = f"<munder>{main.mathml}{_grouped(low)}</munder>{_SPACE}"
    return Formula(mathml, f"{main.text}_{_tight(low)}")


def mean(index: str, size: str) -> Formula:
    """Return 1/size · Σ over index."""
    return row(fraction("1", size), under("∑", index))


def truth(condition: Piece) -> Formula:
    """Return 1 where a condition holds, else 0."""
    inside = row("[", condition, "]")
    return Formula(f"<mn>1</mn>{_grouped(inside)}", f"1{inside.text}")


def _parts(piece: Piece) -> list[Formula]:
    if isinstance(piece, Formula):
        return [piece]
    return [Formula(_token(token), token) for token in piece.split()]


def _token(token: str) -> str:
    safe = escape(token)
    if token.replace(".", "").isdigit():
        return f"<mn>{safe}</mn>"
    if token in _OPERATORS:
        return f"<mo>{safe}</mo>"
    return f"<mi>{safe}</mi>{_SPACE if token in _FUNCTIONS else ''}"


def _grouped(piece: Formula) -> str:
    return f"<mrow>{piece.mathml}</mrow>"


def _tight(piece: Formula) -> str:
    text = piece.text
    return f"{{{text}}}" if len(text) > 1 else text


def _joined(texts: list[str]) -> str:
    line = ""
    for text in texts:
        glued = not line or text in {")", "]", ","} or line[-1] in {"(", "["}
        line += text if glued else f" {text}"
    return line
