"""The formulas of the scores, as MathML, which can be read aloud, and as a line of text.

A formula is put together from pieces: strings of tokens between blanks, and the few layouts that a
line of text has no letters for. Their notation is the one that the glossary explains.
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


def _over_bins(*gap: Piece) -> Formula:
    return row(under("∑", "b"), fraction(sub("n", "b"), "n"), absolute(row(*gap)))


_OVER_ROWS = mean("i", "n")
_GUESS, _LABEL, _PROBABILITY = sub("ŷ", "i"), sub("y", "i"), sub("p", "i , c")
_BIN_GAP = (sub("accuracy", "b"), "−", sub("confidence", "b"))
_SHARE = fraction("k", "m")

CONFIDENCE = row(sub("confidence", "i"), "=", under("max", "c"), _PROBABILITY)
ACCURACY = row("accuracy =", _OVER_ROWS, truth(row(_GUESS, "=", _LABEL)))
_RIGHT, _LABELLED, _PREDICTED = sub("r", "c"), sub("t", "c"), sub("p", "c")
F1 = row(
    "F1 =",
    mean("c", "C"),
    fraction(row("2", _RIGHT), row(_LABELLED, "+", _PREDICTED)),
)
BALANCED_ACCURACY = row(
    words("balanced accuracy"), "=", mean("c", "C"), fraction(_RIGHT, _LABELLED)
)
MCC = row(
    "MCC =",
    fraction(
        row("n", under("∑", "c"), _RIGHT, "−", under("∑", "c"), _LABELLED, _PREDICTED),
        root(
            row(
                bracketed(row("n² −", under("∑", "c"), squared(_LABELLED))),
                bracketed(row("n² −", under("∑", "c"), squared(_PREDICTED))),
            )
        ),
    ),
)
NLL = row("NLL = −", _OVER_ROWS, "log", sub("p", row("i ,", _LABEL)))
BRIER = row(
    "Brier =",
    _OVER_ROWS,
    under("∑", "c"),
    squared(row(_PROBABILITY, "−", truth(row(_LABEL, "= c")))),
)
_OBSERVED = sub("o", "c")
BRIER_RELIABILITY = row(
    "reliability =",
    under("∑", "c"),
    under("∑", "b"),
    fraction(sub("n", "b , c"), "n"),
    squared(row(sub("p", "b , c"), "−", sub("o", "b , c"))),
)
BRIER_UNCERTAINTY = row(
    "uncertainty =", under("∑", "c"), _OBSERVED, bracketed(row("1 −", _OBSERVED))
)
SHARPNESS = row("sharpness =", _OVER_ROWS, under("∑", "c"), squared(_PROBABILITY))
ECE = row("ECE =", _over_bins(*_BIN_GAP))
CLASSWISE_ECE = row(
    words("class-wise ECE"),
    "=",
    mean("c", "C"),
    under("∑", "b"),
    fraction(sub("n", "b , c"), "n"),
    absolute(row(sub("o", "b , c"), "−", sub("p", "b , c"))),
)
MCE = row("MCE =", under("max", "b"), absolute(row(*_BIN_GAP)))
OVERCONFIDENCE = row("overconfidence =", _OVER_ROWS, sub("confidence", "i"), "− accuracy")
AURC = row("AURC =", mean("k", "n"), fraction(words("errors among the top k"), "k"))
COVERAGE = row("coverage =", _OVER_ROWS, truth(row(_LABEL, "∈", sub("S", "i"))))
SET_SIZE = row("size =", _OVER_ROWS, absolute(sub("S", "i")))
AUROC = row("AUROC =", call("P", "u > v"), "+", fraction("1", "2"), call("P", "u = v"))
AUPR = row(
    "AUPR =",
    under("∑", "k"),
    bracketed(row(sub("R", "k"), "−", sub("R", "k − 1"))),
    sub("P", "k"),
)
FPR95 = row("FPR95 =", call("P", "v ≥ t"))
FPR95_THRESHOLD = row("t = max { s :", call("P", "u ≥ s"), "≥ 0.95 }")
TOTAL = row("total = −", under("∑", "c"), _PROBABILITY, "log", _PROBABILITY)
ALEATORIC = row(
    "aleatoric = −",
    mean("s", "S"),
    under("∑", "c"),
    sub("p", "s , i , c"),
    "log",
    sub("p", "s , i , c"),
)
EPISTEMIC = row("epistemic = total − aleatoric")
RELATIVE_NORM = row(words("relative norm"), "=", fraction(norm("ΔW", "F"), norm("W", "F")))
STABLE_RANK = row(
    words("stable rank"),
    "=",
    fraction(row(under("∑", "i"), squared(sub("σ", "i"))), squared(sub("σ", "1"))),
)
DRIFT = row("drift =", under("max", "Z"), norm("Zᵀ Z − I", "F"))
_SPREAD = row(
    fraction("1", "m"), "·", _SHARE, bracketed(row("1 −", _SHARE)), "+", fraction("z²", "4 m²")
)
WILSON = row(
    fraction("1", row("1 +", fraction("z²", "m"))),
    bracketed(row(_SHARE, "+", fraction("z²", "2 m"), "± z", root(_SPREAD))),
)
