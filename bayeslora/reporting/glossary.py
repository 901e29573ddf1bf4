"""The terms of a report in plain words, with how each number is made and who proposed it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bayeslora.reporting import glossary_formulas as formulas
from bayeslora.reporting.formulas import Formula

UNFAMILIAR = "ood"
"""The key of terms that are about out-of-distribution sets."""


@dataclass(frozen=True)
class Term:
    """A term and its meaning.

    Attributes:
        name: What the tables call it.
        meaning: What it says, plain text.
        formulas: How it is made; empty where words say it.
        source: Who proposed it; empty where it is common property.
        keys: The term is there where one of these scores is; always, where there are none.
    """

    name: str
    meaning: str
    formulas: tuple[Formula, ...] = ()
    source: str = ""
    keys: frozenset[str] = frozenset()


def terms_for(keys: Iterable[str]) -> tuple[Term, ...]:
    """Return the terms behind some scores, in order.

    Args:
        keys: Keys of scores; `UNFAMILIAR` where there are out-of-distribution sets.
    """
    present = frozenset(keys)
    return tuple(term for term in TERMS if not term.keys or term.keys & present)


TERMS = (
    Term(
        "Signs",
        "n labelled rows are counted by i, C classes by c. The method gives class c of row i the"
        " probability p with those indices; y is the row's label, ŷ its most probable class.",
    ),
    Term(
        "Confidence",
        "The probability that a method gives to its most probable class.",
        (formulas.CONFIDENCE,),
    ),
    Term(
        "Accuracy",
        "The share of labelled rows whose most probable class is the label.",
        (formulas.ACCURACY,),
        keys=frozenset({"accuracy"}),
    ),
    Term(
        "NLL (negative log-likelihood)",
        "The mean over rows of −log of the probability given to the true class, in nats."
        " Lower is better. Only honest probabilities minimise it: it punishes being wrong,"
        " and most of all being wrong and sure. Probabilities below 1e-12 count as 1e-12.",
        (formulas.NLL,),
        "Good 1952, Journal of the Royal Statistical Society B 14",
        frozenset({"nll"}),
    ),
    Term(
        "Brier score",
        "The mean squared distance between the probabilities and the truth (1 for the"
        " true class, 0 for the others), summed over classes: 0 is perfect, 2 the worst.",
        (formulas.BRIER,),
        "Brier 1950, Monthly Weather Review 78",
        frozenset({"brier"}),
    ),
    Term(
        "ECE (expected calibration error)",
        "Rows are sorted by confidence into bins of equal width; the gap"
        " between mean confidence and accuracy of each bin is averaged, weighted by its"
        " rows. Bins are closed on the left and open on the right, [low, high), and the"
        " last one holds 1 as well. Even a perfectly calibrated method does not read 0 on"
        " finitely many rows, and more bins read higher.",
        (formulas.ECE,),
        "Naeini, Cooper and Hauskrecht 2015, AAAI 29",
        frozenset({"ece"}),
    ),
    Term(
        "ECE, equal-mass bins",
        "The same with bins that hold equally many rows.",
        source="Nguyen and O'Connor 2015, arXiv 1508.05154",
        keys=frozenset({"aece"}),
    ),
    Term(
        "ECE, class-wise",
        "The same for the probability of every class in place of the confidence, averaged over"
        " classes: it also sees the classes that were not chosen.",
        (formulas.CLASSWISE_ECE,),
        "Kull et al. 2019, arXiv 1910.12656",
        frozenset({"cwece"}),
    ),
    Term(
        "Largest gap of a bin (MCE)",
        "The largest gap between mean confidence and accuracy of the bins of the ECE, however few"
        " rows the bin has.",
        (formulas.MCE,),
        "Naeini, Cooper and Hauskrecht 2015, AAAI 29",
        frozenset({"mce"}),
    ),
    Term(
        "Overconfidence",
        "Mean confidence minus accuracy: above 0 too sure, below 0 not sure enough.",
        (formulas.OVERCONFIDENCE,),
        keys=frozenset({"overconfidence"}),
    ),
    Term(
        "AURC (area under the risk-coverage curve)",
        "The mean share of errors among the rows answered, over all numbers of rows"
        " answered, the most confident first. Lower is better: errors then sit where"
        " confidence is low.",
        (formulas.AURC,),
        "Geifman, Uziel and El-Yaniv 2019, arXiv 1805.08206",
        frozenset({"aurc"}),
    ),
    Term(
        "Prediction sets: coverage and size",
        "A method may name a set S of classes for every row in place of one. Coverage is the share"
        " of labelled rows whose set holds the label, and is meant to be what the sets were made"
        " for. Size is the mean number of classes in a set: at the same coverage, fewer say more.",
        (formulas.COVERAGE, formulas.SET_SIZE),
        "Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World",
        frozenset({"coverage", "set_size"}),
    ),
    Term(
        "Out of distribution (OOD), unfamiliar",
        "Rows unlike those that the method was made for, such as texts on a subject that"
        " none of its classes covers. They are the positive class of the three scores"
        " below; u is the uncertainty that they are judged by.",
        keys=frozenset({UNFAMILIAR}),
    ),
    Term(
        "AUROC",
        "The probability that, of one unfamiliar and one familiar row, the unfamiliar one"
        " has the higher uncertainty. 0.5 is a coin, 1 is perfect.",
        (formulas.AUROC,),
        "Hanley and McNeil 1982, Radiology 143",
        frozenset({UNFAMILIAR}),
    ),
    Term(
        "AUPR",
        "The mean precision of flagging the most uncertain rows first. A useless score"
        " gives the share of unfamiliar rows among all rows. Over thresholds k, P is the precision"
        " and R the share of unfamiliar rows that are flagged.",
        (formulas.AUPR,),
        "Hendrycks and Gimpel 2017, arXiv 1610.02136",
        frozenset({UNFAMILIAR}),
    ),
    Term(
        "FPR95",
        "The share of familiar rows flagged by mistake where the threshold catches 95 %"
        " of the unfamiliar ones. Lower is better.",
        (formulas.FPR95, formulas.FPR95_THRESHOLD),
        "Liang, Li and Srikant 2018, arXiv 1706.02690",
        frozenset({UNFAMILIAR}),
    ),
    Term(
        "Total, aleatoric, epistemic uncertainty",
        "In nats. Total: the entropy of the predicted probabilities. Aleatoric: the part"
        " that stays however much is known about the weights, the mean entropy over S draws of"
        " them. Epistemic: the rest, which"
        " is due to not knowing the weights, and is zero for a single set of weights.",
        (formulas.TOTAL, formulas.ALEATORIC, formulas.EPISTEMIC),
        "Depeweg et al. 2018, arXiv 1710.07283",
    ),
    Term(
        "Intervals",
        "95 % intervals of scores come from the bootstrap: rows are drawn with"
        " replacement many times, and the score's spread is read off; for calibration"
        " errors, whose noise only ever adds, in the reflected form. Intervals of a share k of m"
        " rows, such as a bin's accuracy, are Wilson's, with z = 1.96. They cover the chance of"
        " drawing these rows, not that of training again with another seed.",
        (formulas.WILSON,),
        "Davison and Hinkley 1997, Bootstrap Methods and their Application; Wilson 1927, Journal of"
        " the American Statistical Association 22",
    ),
)
"""The terms in the order they appear."""
