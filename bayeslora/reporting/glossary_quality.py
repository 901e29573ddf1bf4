"""Terms of how right and how honest a method is."""

from __future__ import annotations

from bayeslora.reporting import glossary_formulas as formulas
from bayeslora.reporting.term import BY_CHANCE, Term

QUALITY_TERMS = (
    Term(
        "Signs",
        "n labelled rows are counted by i, C classes by c. The method gives class c of row i the"
        " probability p with those indices; y is the row's label, ŷ its most probable class.",
    ),
    Term(
        "Confidence",
        "The probability that a method gives to its most probable class.",
        (formulas.CONFIDENCE,),
        keys=frozenset({"mean_confidence"}),
    ),
    Term(
        "Accuracy",
        "The share of labelled rows whose most probable class is the label.",
        (formulas.ACCURACY,),
        keys=frozenset({"accuracy"}),
    ),
    Term(
        "F1, macro",
        "The mean over classes of the harmonic mean of precision and recall. Every class counts"
        " alike, however few rows it has; a class that is a label or a prediction of some row"
        " without being right once counts as 0, and a class that is neither is left out.",
        (formulas.F1,),
        "van Rijsbergen 1979, Information Retrieval",
        frozenset({"f1"}),
    ),
    Term(
        "Balanced accuracy",
        "The mean over the classes of the labelled rows of the share of its rows that is found"
        " (recall). Naming the most frequent class every time scores 1 over the number of classes,"
        " however frequent it is.",
        (formulas.BALANCED_ACCURACY,),
        "Brodersen et al. 2010, ICPR 20",
        frozenset({"balanced_accuracy"}),
    ),
    Term(
        "MCC (Matthews correlation coefficient)",
        "The correlation of labels and predictions: 1 where all are right, around 0 where the"
        " predictions say nothing about the labels, and 0 where all labels or all predictions are"
        " the same class. t is the number of rows with the class as their label, r how many of"
        " these are predicted as it, and p how many rows are predicted as it.",
        (formulas.MCC,),
        "Matthews 1975, Biochimica et Biophysica Acta 405; Gorodkin 2004, Computational Biology and"
        " Chemistry 28",
        frozenset({"mcc"}),
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
        "Brier score: reliability, resolution, uncertainty",
        "The Brier score in parts: what stating wrong probabilities costs, minus what knowing more"
        " than the class shares saves, plus what always stating the class shares would cost. Rows"
        " are taken together in bins of each class's probability; o is the share of the class in a"
        " bin, or among all rows.",
        (formulas.BRIER_RELIABILITY, formulas.BRIER_UNCERTAINTY),
        "Murphy 1973, Journal of Applied Meteorology 12; Stephenson, Coelho and Jolliffe 2008,"
        " Weather and Forecasting 23",
        frozenset({"brier_reliability", "brier_resolution", "brier_uncertainty"}),
    ),
    Term(
        "Sharpness",
        "How far the probabilities are from saying nothing: 1/C where they are all equal, 1 where"
        " one is 1. Good only together with calibration: 1 − sharpness is the Brier score of a"
        " calibrated method.",
        (formulas.SHARPNESS,),
        "Gneiting, Balabdaoui and Raftery 2007, Journal of the Royal Statistical Society B 69",
        frozenset({"sharpness"}),
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
        "ECE by chance, p",
        "What the ECE of a perfectly calibrated method would read on average on these rows, and how"
        " often it would read at least as much: each row is drawn as right with a probability of"
        " its confidence, many times over. A small p speaks against calibration of the confidence."
        " A large one is no proof of it: few rows show little.",
        source="Bröcker and Smith 2007, Weather and Forecasting 22; Vaicenavicius et al. 2019,"
        " arXiv 1902.06977",
        keys=frozenset({BY_CHANCE, "ece_if_calibrated"}),
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
        " classes: it also sees the classes that were not chosen. In each bin, o is the share of"
        " rows whose label is the class, p the mean probability.",
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
        "ECE, debiased",
        "The ECE minus an estimate of what noise adds to it on so few rows. It may be slightly"
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
        "ECE, too sure and not sure enough",
        "The two parts of the ECE: from bins more confident than right, and from bins less"
        " confident than right.",
        keys=frozenset({"ece_over", "ece_under"}),
    ),
    Term(
        "Recall, precision, F1, mean probability, ECE of a class",
        "Recall is the share of the class's rows that are predicted as it, precision the share of"
        " rows predicted as it that are it, F1 the harmonic mean of the two. Its mean probability"
        " over all labelled rows is to be compared with its share of them. The ECE, one vs rest, is"
        " that of the class's probability in place of the confidence.",
        keys=frozenset({"recall", "precision", "mean_probability"}),
    ),
    Term(
        "Overconfidence",
        "Mean confidence minus accuracy: above 0 too sure, below 0 not sure enough.",
        (formulas.OVERCONFIDENCE,),
        keys=frozenset({"overconfidence"}),
    ),
)
"""Accuracy, proper scores and calibration, in the order they appear."""
