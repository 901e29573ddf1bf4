"""The terms of a report in plain words, with how each number is made and who proposed it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bayeslora.reporting import formulas
from bayeslora.reporting.formulas import Formula

UNFAMILIAR = "ood"
"""The key of terms that are about out-of-distribution sets."""

NEAR_AND_FAR = "ood_groups"
"""The key of terms that are about kinds of such sets."""

BY_CHANCE = "calibration_p"
"""The key of terms that are about calibration errors by chance."""

SPECTRUM = "spectrum"
"""The key of terms that are about the changes of adapters."""


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

    @property
    def anchor(self) -> str:
        """Where it stands on the page."""
        return f"term-{re.sub('[^a-z0-9]+', '-', self.name.lower()).strip('-')}"


QUALITY_TERMS = (
    Term(
        "Signs",
        "Labelled examples are counted by i from 1 to n, classes by c from 1 to C. p with these"
        " indices is the probability of class c for example i, y the label and ŷ the most"
        " probable class.",
    ),
    Term(
        "Confidence",
        "The probability that a method gives to its most probable class.",
        (formulas.CONFIDENCE,),
        keys=frozenset({"mean_confidence"}),
    ),
    Term(
        "Accuracy",
        "The share of labelled examples whose most probable class is the label.",
        (formulas.ACCURACY,),
        keys=frozenset({"accuracy"}),
    ),
    Term(
        "F1, macro",
        "The mean over classes of the harmonic mean of precision and recall. Every class counts"
        " alike, however few examples it has; a class that is a label or a prediction of some"
        " example without being right once counts as 0, and a class that is neither is left out.",
        (formulas.F1,),
        "van Rijsbergen 1979, Information Retrieval",
        frozenset({"f1"}),
    ),
    Term(
        "Balanced accuracy",
        "The mean over the classes of the labelled examples of the share of its examples that is"
        " found (recall). Naming the most frequent class every time scores 1 over the number of"
        " classes, however frequent it is.",
        (formulas.BALANCED_ACCURACY,),
        "Brodersen et al. 2010, ICPR 20",
        frozenset({"balanced_accuracy"}),
    ),
    Term(
        "MCC (Matthews correlation coefficient)",
        "The correlation of labels and predictions: 1 where all are right, around 0 where the"
        " predictions say nothing about the labels, and 0 where all labels or all predictions are"
        " the same class. t is the number of examples with the class as their label, r how many of"
        " these are predicted as it, and p how many examples are predicted as it.",
        (formulas.MCC,),
        "Matthews 1975, Biochimica et Biophysica Acta 405; Gorodkin 2004, Computational Biology and"
        " Chemistry 28",
        frozenset({"mcc"}),
    ),
    Term(
        "NLL (negative log-likelihood)",
        "The mean over examples of −log of the probability given to the true class, in nats."
        " Lower is better. A proper score: only the true probabilities minimise it. Confident"
        " errors cost most. Probabilities below 1e-12 count as 1e-12.",
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
        "Brier score: reliability, resolution, uncertainty",
        "The Brier score in parts: what stating wrong probabilities costs, minus what knowing more"
        " than the class shares saves, plus what always stating the class shares would cost. Rows"
        " are taken together in bins of each class's probability; o is the share of the class in a"
        " bin, or among all examples.",
        (formulas.BRIER_RELIABILITY, formulas.BRIER_UNCERTAINTY),
        "Murphy 1973, Journal of Applied Meteorology 12; Stephenson, Coelho and Jolliffe 2008,"
        " Weather and Forecasting 23",
        frozenset({"brier_reliability", "brier_resolution", "brier_uncertainty"}),
    ),
    Term(
        "Sharpness",
        "The concentration of the probabilities: 1/C where they are all equal, 1 where"
        " one is 1. It is good only with calibration: 1 − sharpness is the Brier score of a"
        " calibrated method.",
        (formulas.SHARPNESS,),
        "Gneiting, Balabdaoui and Raftery 2007, Journal of the Royal Statistical Society B 69",
        frozenset({"sharpness"}),
    ),
    Term(
        "ECE (expected calibration error)",
        "Rows are sorted by confidence into bins of equal width; the gap"
        " between mean confidence and accuracy of each bin is averaged, weighted by its"
        " examples. Bins are closed on the left and open on the right, [low, high), and the"
        " last one holds 1 as well. Even a perfectly calibrated method does not read 0 on"
        " finitely many examples, and more bins read higher.",
        (formulas.ECE,),
        "Naeini, Cooper and Hauskrecht 2015, AAAI 29",
        frozenset({"ece"}),
    ),
    Term(
        "ECE by chance, p",
        "What the ECE of a perfectly calibrated method would read on average on these examples,"
        " and how often it would read at least as much: each example is drawn as right with a"
        " probability of its confidence, many times over. A small p speaks against calibration of"
        " the confidence. A large one is no proof of it: few examples show little.",
        source="Bröcker and Smith 2007, Weather and Forecasting 22; Vaicenavicius et al. 2019,"
        " arXiv 1902.06977",
        keys=frozenset({BY_CHANCE, "ece_if_calibrated"}),
    ),
    Term(
        "ECE, equal-mass bins",
        "The same with bins that hold equally many examples.",
        source="Nguyen and O'Connor 2015, arXiv 1508.05154",
        keys=frozenset({"aece"}),
    ),
    Term(
        "ECE, class-wise",
        "The same for the probability of every class in place of the confidence, averaged over"
        " classes: it also sees the classes that were not chosen. In each bin, o is the share of"
        " examples whose label is the class, p the mean probability.",
        (formulas.CLASSWISE_ECE,),
        "Kull et al. 2019, arXiv 1910.12656",
        frozenset({"cwece"}),
    ),
    Term(
        "Largest gap of a bin (MCE)",
        "The largest gap between mean confidence and accuracy of the bins of the ECE, however few"
        " examples the bin has.",
        (formulas.MCE,),
        "Naeini, Cooper and Hauskrecht 2015, AAAI 29",
        frozenset({"mce"}),
    ),
    Term(
        "ECE, debiased",
        "The ECE minus an estimate of what noise adds to it on so few examples. It may be slightly"
        " negative.",
        source="Kumar, Liang and Ma 2019, arXiv 1909.10155",
        keys=frozenset({"ece_debiased"}),
    ),
    Term(
        "ECE, smooth",
        "The ECE with a kernel in place of bins, so that no edge decides; the kernel is as wide as"
        " the error that it finds.",
        source="Błasiok and Nakkiran 2023, arXiv 2309.12236",
        keys=frozenset({"smece"}),
    ),
    Term(
        "ECE, overconfident and underconfident part",
        "The two parts of the ECE: from bins more confident than right, and from bins less"
        " confident than right.",
        keys=frozenset({"ece_over", "ece_under"}),
    ),
    Term(
        "Recall, precision, F1, mean probability, ECE of a class",
        "Recall is the share of the class's examples that are predicted as it, precision the"
        " share of examples predicted as it that are it, F1 the harmonic mean of the two. Its"
        " mean probability over all labelled examples is to be compared with its share of them."
        " The ECE, one vs rest, is that of the class's probability in place of the confidence.",
        keys=frozenset({"recall", "precision", "mean_probability"}),
    ),
    Term(
        "Overconfidence",
        "Mean confidence minus accuracy: above 0 overconfident, below 0 underconfident.",
        (formulas.OVERCONFIDENCE,),
        keys=frozenset({"overconfidence"}),
    ),
)
"""Accuracy, proper scores and calibration, in the order they appear."""


USE_TERMS = (
    Term(
        "AURC (area under the risk-coverage curve)",
        "The mean share of errors among the answered examples, the most confident first, over all"
        " numbers of answered examples. Lower is better: errors then have low confidence.",
        (formulas.AURC,),
        "Geifman, Uziel and El-Yaniv 2019, arXiv 1805.08206",
        frozenset({"aurc"}),
    ),
    Term(
        "AURC, excess",
        "The AURC minus that of a method with as many errors, all among its least confident"
        " examples: what a better order could gain.",
        source="Geifman, Uziel and El-Yaniv 2019, arXiv 1805.08206",
        keys=frozenset({"eaurc"}),
    ),
    Term(
        "Accuracy at 50, 80, 90, 95 % coverage",
        "The accuracy on that share of examples, the most confident ones, where the others are left"
        " to a person.",
        source="El-Yaniv and Wiener 2010, Journal of Machine Learning Research 11",
        keys=frozenset({f"accuracy_at_{percent}" for percent in (50, 80, 90, 95)}),
    ),
    Term(
        "Prediction sets: coverage and size",
        "A method may predict a set S of classes in place of one. Coverage is the share of"
        " labelled examples whose set holds the label, and should be what the sets were made for."
        " Size is the mean number of classes in a set: at the same coverage, smaller is better.",
        (formulas.COVERAGE, formulas.SET_SIZE),
        "Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World",
        frozenset({"coverage", "set_size"}),
    ),
    Term(
        "Prediction sets: lowest coverage, sets of one class, empty sets",
        "The lowest coverage of any class; the shares of examples whose set has exactly one class,"
        " and none.",
        keys=frozenset({"worst_class_coverage", "singletons", "empty_sets"}),
    ),
    Term(
        "Out of distribution (OOD)",
        "Inputs unlike those that the method was made for, such as texts on a subject that none of"
        " its classes covers. They are the positive class of the scores below; u is the uncertainty"
        " of an out-of-distribution example, v that of an in-distribution one.",
        keys=frozenset({UNFAMILIAR}),
    ),
    Term(
        "AUROC",
        "The probability that an out-of-distribution example has a higher uncertainty than an"
        " in-distribution one, both drawn at random. 0.5 is chance, 1 is perfect.",
        (formulas.AUROC,),
        "Hanley and McNeil 1982, Radiology 143",
        frozenset({UNFAMILIAR, "auroc"}),
    ),
    Term(
        "AUPR",
        "The mean precision of flagging the most uncertain examples first. Chance gives the share"
        " of out-of-distribution examples among all. Over thresholds k, P is the precision and R"
        " the share of out-of-distribution examples that are flagged.",
        (formulas.AUPR,),
        "Hendrycks and Gimpel 2017, arXiv 1610.02136",
        frozenset({UNFAMILIAR, "aupr"}),
    ),
    Term(
        "AUPR, in-distribution",
        "The AUPR with in-distribution examples as the positive class, the least uncertain first."
        " Chance gives their share among all examples.",
        source="Hendrycks and Gimpel 2017, arXiv 1610.02136",
        keys=frozenset({UNFAMILIAR, "aupr_in"}),
    ),
    Term(
        "FPR95",
        "The share of in-distribution examples that are flagged at the threshold that flags 95 % of"
        " the out-of-distribution examples. Lower is better.",
        (formulas.FPR95, formulas.FPR95_THRESHOLD),
        "Liang, Li and Srikant 2018, arXiv 1706.02690",
        frozenset({UNFAMILIAR, "fpr95"}),
    ),
    Term(
        "Near and far sets",
        "Kinds of out-of-distribution sets, named by the author of the report. Scores of a kind are"
        " means over its sets, which count equally.",
        source="Yang et al. 2022, arXiv 2210.07242",
        keys=frozenset({NEAR_AND_FAR}),
    ),
    Term(
        "Total, aleatoric, epistemic uncertainty",
        "In nats. Total: the entropy of the predicted probabilities. Aleatoric: the part"
        " that more data would not reduce, the mean entropy over S draws of the weights. Epistemic:"
        " the rest, from not knowing the weights; zero for a single set of weights.",
        (formulas.TOTAL, formulas.ALEATORIC, formulas.EPISTEMIC),
        "Depeweg et al. 2018, arXiv 1710.07283",
    ),
    Term(
        "Intervals",
        "95 % intervals of scores are bootstrap intervals over examples; of calibration errors,"
        " to which noise only adds, reflected ones that start at zero where chance alone explains"
        " the error. Intervals of a share k of m examples, such as the accuracy of a bin, are"
        " Wilson's, with z = 1.96; so is that of an accuracy of 1. Below 10 examples, other"
        " scores have none. They cover the choice of the examples, not another training seed. On"
        " a few hundred examples, those of the class-wise ECE and of the Brier score's resolution"
        " are too narrow.",
        (formulas.WILSON,),
        "Davison and Hinkley 1997, Bootstrap Methods and their Application; Wilson 1927, Journal of"
        " the American Statistical Association 22",
    ),
)
"""Selective prediction, prediction sets, detection, uncertainties and intervals."""


ADAPTER_TERMS = (
    Term(
        "Norm and relative norm of a change",
        "How far training moved the weight W of a layer: the Frobenius norm of the change ΔW, and"
        " its share of the norm of W.",
        (formulas.RELATIVE_NORM,),
        keys=frozenset({SPECTRUM}),
    ),
    Term(
        "Stable rank",
        "How many directions the change of a weight really uses: 1 where one singular value σ is"
        " all there is, the rank where all are equal. σ with the index 1 is the largest.",
        (formulas.STABLE_RANK,),
        "Rudelson and Vershynin 2007, arXiv math/0503442",
        frozenset({SPECTRUM}),
    ),
    Term(
        "Drift",
        "How far a layer's factors Z that training is to keep orthonormal are from that: 0 is"
        " exact, and 0 is also said of adapters without such factors.",
        (formulas.DRIFT,),
        keys=frozenset({SPECTRUM}),
    ),
)
"""Size, directions and orthogonality."""


TERMS = (*QUALITY_TERMS, *USE_TERMS, *ADAPTER_TERMS)
"""The terms in the order they appear."""


def terms_for(keys: Iterable[str]) -> tuple[Term, ...]:
    """Return the terms behind some scores, in order.

    Args:
        keys: Keys of scores; `UNFAMILIAR` where there are out-of-distribution sets, `SPECTRUM`
            where there are adapters.
    """
    present = frozenset(keys)
    return tuple(term for term in TERMS if not term.keys or term.keys & present)
