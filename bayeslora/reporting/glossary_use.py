"""Terms of what a method's uncertainty is good for, and of all numbers alike."""

from __future__ import annotations

from bayeslora.reporting import glossary_formulas as formulas
from bayeslora.reporting.term import NEAR_AND_FAR, UNFAMILIAR, Term

USE_TERMS = (
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
        "AURC, excess",
        "The AURC minus that of a method with as many errors that were all among its least sure"
        " rows: what a better order of the rows could gain.",
        source="Geifman, Uziel and El-Yaniv 2019, arXiv 1805.08206",
        keys=frozenset({"eaurc"}),
    ),
    Term(
        "Accuracy at 80, 90, 95 % coverage",
        "The accuracy among that share of rows, the most confident first, where the others are left"
        " to a person.",
        source="El-Yaniv and Wiener 2010, Journal of Machine Learning Research 11",
        keys=frozenset({"accuracy_at_80", "accuracy_at_90", "accuracy_at_95"}),
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
        "Prediction sets: lowest coverage, sets of one class, empty sets",
        "The lowest coverage among the rows of one class; the shares of rows whose set has exactly"
        " one class, and none.",
        keys=frozenset({"worst_class_coverage", "singletons", "empty_sets"}),
    ),
    Term(
        "Out of distribution (OOD), unfamiliar",
        "Rows unlike those that the method was made for, such as texts on a subject that"
        " none of its classes covers. They are the positive class of the scores"
        " below; u is the uncertainty of an unfamiliar row, v that of a familiar one.",
        keys=frozenset({UNFAMILIAR}),
    ),
    Term(
        "AUROC",
        "The probability that, of one unfamiliar and one familiar row, the unfamiliar one"
        " has the higher uncertainty. 0.5 is a coin, 1 is perfect.",
        (formulas.AUROC,),
        "Hanley and McNeil 1982, Radiology 143",
        frozenset({UNFAMILIAR, "auroc"}),
    ),
    Term(
        "AUPR",
        "The mean precision of flagging the most uncertain rows first. A useless score"
        " gives the share of unfamiliar rows among all rows. Over thresholds k, P is the precision"
        " and R the share of unfamiliar rows that are flagged.",
        (formulas.AUPR,),
        "Hendrycks and Gimpel 2017, arXiv 1610.02136",
        frozenset({UNFAMILIAR, "aupr"}),
    ),
    Term(
        "AUPR, familiar rows",
        "The AUPR of the other direction: familiar rows are the positive class, the least uncertain"
        " first. A useless score gives the share of familiar rows among all rows.",
        source="Hendrycks and Gimpel 2017, arXiv 1610.02136",
        keys=frozenset({UNFAMILIAR, "aupr_in"}),
    ),
    Term(
        "FPR95",
        "The share of familiar rows flagged by mistake where the threshold catches 95 %"
        " of the unfamiliar ones. Lower is better.",
        (formulas.FPR95, formulas.FPR95_THRESHOLD),
        "Liang, Li and Srikant 2018, arXiv 1706.02690",
        frozenset({UNFAMILIAR, "fpr95"}),
    ),
    Term(
        "Near and far sets",
        "Kinds of out-of-distribution sets, named by whoever made the report. Scores of a kind are"
        " means over its sets, each counting alike.",
        source="Yang et al. 2022, arXiv 2210.07242",
        keys=frozenset({NEAR_AND_FAR}),
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
        " errors, whose noise only ever adds, in the reflected form, from zero on where chance"
        " alone explains the error. Intervals of a share k of m rows, such as a bin's accuracy, are"
        " Wilson's, with z = 1.96; so is that of an accuracy where all rows are right. Where there"
        " are fewer than 10 rows, other scores have none. They cover the chance of drawing these"
        " rows, not that of training again with another seed. On a few hundred rows, those of the"
        " class-wise ECE and of the Brier score's resolution hold the truth less often than they"
        " say.",
        (formulas.WILSON,),
        "Davison and Hinkley 1997, Bootstrap Methods and their Application; Wilson 1927, Journal of"
        " the American Statistical Association 22",
    ),
)
"""Selective answers, prediction sets, unfamiliar rows, uncertainties and intervals."""
