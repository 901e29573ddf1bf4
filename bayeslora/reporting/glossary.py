"""The terms of a report in plain words, with how each number is made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """A term and its meaning, plain text."""

    name: str
    meaning: str


TERMS = (
    Term("Confidence", "The probability that a method gives to its most probable class."),
    Term("Accuracy", "The share of labelled rows whose most probable class is the label."),
    Term(
        "NLL (negative log-likelihood)",
        "The mean over rows of −log of the probability given to the true class, in nats."
        " Lower is better. Only honest probabilities minimise it: it punishes being wrong,"
        " and most of all being wrong and sure.",
    ),
    Term(
        "Brier score",
        "The mean squared distance between the probabilities and the truth (1 for the"
        " true class, 0 for the others), summed over classes: 0 is perfect, 2 the worst.",
    ),
    Term(
        "ECE (expected calibration error)",
        "Rows are sorted by confidence into bins of equal width; the gap"
        " between mean confidence and accuracy of each bin is averaged, weighted by its"
        " rows. Bins are closed on the left and open on the right, [low, high), and the"
        " last one holds 1 as well. Even a perfectly calibrated method does not read 0 on"
        " finitely many rows, and more bins read higher.",
    ),
    Term(
        "Overconfidence",
        "Mean confidence minus accuracy: above 0 too sure, below 0 not sure enough.",
    ),
    Term(
        "AURC (area under the risk-coverage curve)",
        "The mean share of errors among the rows answered, over all numbers of rows"
        " answered, the most confident first. Lower is better: errors then sit where"
        " confidence is low.",
    ),
    Term(
        "Prediction sets: coverage and size",
        "A method may name a set of classes for every row in place of one. Coverage is the share of"
        " labelled rows whose set holds the label, and is meant to be what the sets were made for."
        " Size is the mean number of classes in a set: at the same coverage, fewer say more.",
    ),
    Term(
        "Out of distribution (OOD), unfamiliar",
        "Rows unlike those that the method was made for, such as texts on a subject that"
        " none of its classes covers. They are the positive class of the three scores"
        " below.",
    ),
    Term(
        "AUROC",
        "The probability that, of one unfamiliar and one familiar row, the unfamiliar one"
        " has the higher uncertainty. 0.5 is a coin, 1 is perfect.",
    ),
    Term(
        "AUPR",
        "The mean precision of flagging the most uncertain rows first. A useless score"
        " gives the share of unfamiliar rows among all rows.",
    ),
    Term(
        "FPR95",
        "The share of familiar rows flagged by mistake where the threshold catches 95 %"
        " of the unfamiliar ones. Lower is better.",
    ),
    Term(
        "Total, aleatoric, epistemic uncertainty",
        "In nats. Total: the entropy of the predicted probabilities. Aleatoric: the part"
        " that stays however much is known about the weights. Epistemic: the rest, which"
        " is due to not knowing the weights, and is zero for a single set of weights.",
    ),
    Term(
        "Intervals",
        "95 % intervals of scores come from the bootstrap: rows are drawn with"
        " replacement many times, and the score's spread is read off; for calibration"
        " errors, whose noise only ever adds, in the reflected form. Intervals of a bin's"
        " accuracy are Wilson's. They cover the chance of drawing these rows, not that of"
        " training again with another seed.",
    ),
)
"""The terms in the order they appear."""
