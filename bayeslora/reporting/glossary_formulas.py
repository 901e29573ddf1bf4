"""The formulas of the scores, in the notation that the glossary explains."""

from __future__ import annotations

from bayeslora.reporting.formulas import (
    Formula,
    Piece,
    absolute,
    bracketed,
    call,
    fraction,
    mean,
    norm,
    root,
    row,
    squared,
    sub,
    truth,
    under,
    words,
)


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
AURC = row("AURC =", mean("k", "n"), fraction(words("errors among the k surest rows"), "k"))
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
