"""The terms of a report in plain words, with sources and formulas.

A formula is a line of text, and the same as MathML for screen readers. In the line, `_` starts an
index, in braces if it has several tokens; `/` makes a fraction, with parts in brackets if they
contain blanks; `²` after a bracket squares it, `√(…)` is a root, `1[…]` is an indicator function,
and a name directly before a bracket is a function. Quotes hold words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from bayeslora.metrics.catalogue import ALL_SCORES

_TOKEN = re.compile(r'\s*("[^"]*"|√\(|1\[|\d[\d.]*|[^\W\d_][^\W_]*|\S)')
_OPERATORS = frozenset("=+−·±≠≤≥<>∈()[]{},:∑")
_CLOSED_BY = {"(": ")", "√(": ")", "1[": "]", "|": "|", "‖": "‖"}
_SPACE = '<mspace width="0.2em"></mspace>'


@dataclass(frozen=True)
class Formula:
    """A formula: a line of text with quotes around words."""

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


@dataclass(frozen=True)
class Term:
    """A term and its meaning, plain text, with its formulas and who proposed it, if any.

    It is included if one of the scores or attributes of `Scores` in `keys` is present, or adapter
    changes for `spectra`; always, if there are none.
    """

    name: str
    meaning: str
    formulas: tuple[Formula, ...] = ()
    source: str = ""
    keys: frozenset[str] = frozenset()

    @property
    def anchor(self) -> str:
        """Its anchor on the page."""
        return f"term-{re.sub('[^a-z0-9]+', '-', self.name.lower()).strip('-')}"


def _catalogued(key: str, *sources: str) -> Term:
    """Return the term of a score, worded as in the catalogue, with its formulas."""
    info = ALL_SCORES[key]
    source = info.source if re.search(r"\d", info.source) else ""
    meaning = f"{info.meaning[0].upper()}{info.meaning[1:]}."
    return Term(info.title, meaning, tuple(map(Formula, sources)), source, frozenset({key}))


TERMS = (
    # Accuracy, proper scores and calibration.
    Term(
        "Notation",
        "Labelled examples are counted by i from 1 to n, classes by c from 1 to C. p with these"
        " indices is the probability of class c for example i, y the label and ŷ the most"
        " probable class. Of class c, t examples have it as their label, q are predicted as it, r"
        " of them correctly. In bin b, o is the share of a class, p its mean probability.",
    ),
    Term(
        "Confidence",
        "The probability that a method gives to its most probable class.",
        (Formula("confidence_i = max_c p_{i, c}"),),
        keys=frozenset({"mean_confidence"}),
    ),
    _catalogued("accuracy", "accuracy = 1/n ∑_i 1[ŷ_i = y_i]"),
    _catalogued("f1", "F1 = 1/C ∑_c (2 r_c)/(t_c + q_c)"),
    _catalogued("balanced_accuracy", '"balanced accuracy" = 1/C ∑_c r_c/t_c'),
    _catalogued("mcc", "MCC = (n ∑_c r_c − ∑_c t_c q_c)/√((n² − ∑_c (t_c)²) (n² − ∑_c (q_c)²))"),
    Term(
        "NLL (negative log-likelihood)",
        "The mean over examples of −log of the probability given to the true class, in nats."
        " Lower is better. A proper score: only the true probabilities minimise it. Confident"
        " errors cost most. Probabilities below 1e-12 count as 1e-12.",
        (Formula("NLL = − 1/n ∑_i log p_{i, y_i}"),),
        "Good 1952, Journal of the Royal Statistical Society B 14",
        frozenset({"nll"}),
    ),
    Term(
        "Brier score",
        "The mean squared distance between the probabilities and the truth (1 for the"
        " true class, 0 for the others), summed over classes: 0 is perfect, 2 the worst.",
        (Formula("Brier = 1/n ∑_i ∑_c (p_{i, c} − 1[y_i = c])²"),),
        "Brier 1950, Monthly Weather Review 78",
        frozenset({"brier"}),
    ),
    _catalogued("brier_reliability", "reliability = ∑_c ∑_b n_{b, c}/n (p_{b, c} − o_{b, c})²"),
    _catalogued("brier_resolution"),
    _catalogued("brier_uncertainty", "uncertainty = ∑_c o_c (1 − o_c)"),
    _catalogued("sharpness", "sharpness = 1/n ∑_i ∑_c (p_{i, c})²"),
    Term(
        "ECE (expected calibration error)",
        "Rows are sorted by confidence into bins of equal width; the gap"
        " between mean confidence and accuracy of each bin is averaged, weighted by its"
        " examples. Bins are closed on the left and open on the right, [low, high), and the"
        " last one holds 1 as well. Even a perfectly calibrated method does not have an ECE"
        " of 0 on finitely many examples, and more bins give a higher ECE.",
        (Formula("ECE = ∑_b n_b/n |accuracy_b − confidence_b|"),),
        "Naeini, Cooper and Hauskrecht 2015, AAAI 29",
        frozenset({"ece"}),
    ),
    Term(
        "ECE by chance, p",
        "What the ECE of a perfectly calibrated method would be on average on these examples, and"
        " p, how often it would be at least as high: each example is drawn as correct with a"
        " probability of its confidence, many times over. A small p is evidence of miscalibration."
        " A large p does not prove calibration: few examples show little.",
        source="Bröcker and Smith 2007, Weather and Forecasting 22; Vaicenavicius et al. 2019,"
        " arXiv 1902.06977",
        keys=frozenset({"ece_if_calibrated", "calibration_p"}),
    ),
    _catalogued("aece"),
    _catalogued("cwece", '"class-wise ECE" = 1/C ∑_c ∑_b n_{b, c}/n |o_{b, c} − p_{b, c}|'),
    _catalogued("mce", "MCE = max_b |accuracy_b − confidence_b|"),
    _catalogued("ece_debiased"),
    _catalogued("smece"),
    _catalogued("ece_over"),
    _catalogued("ece_under"),
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
        (Formula("overconfidence = 1/n ∑_i confidence_i − accuracy"),),
        keys=frozenset({"overconfidence"}),
    ),
    # Selective prediction, prediction sets, detection, uncertainties and intervals.
    Term(
        "AURC (area under the risk-coverage curve)",
        "The mean share of errors among the answered examples, the most confident first, over all"
        " numbers of answered examples. Lower is better: errors then have low confidence.",
        (Formula('AURC = 1/n ∑_k ("errors among the top k")/k'),),
        "Geifman, Uziel and El-Yaniv 2019, arXiv 1805.08206",
        frozenset({"aurc"}),
    ),
    _catalogued("eaurc"),
    *(_catalogued(f"accuracy_at_{percent}") for percent in (50, 80, 90, 95)),
    Term(
        "Prediction sets: coverage and size",
        "A method may predict a set S of classes in place of one. Coverage is the share of"
        " labelled examples whose set holds the label, and should be what the sets were made for."
        " Size is the mean number of classes in a set: at the same coverage, smaller is better.",
        (Formula("coverage = 1/n ∑_i 1[y_i ∈ S_i]"), Formula("size = 1/n ∑_i |S_i|")),
        "Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World",
        frozenset({"coverage", "set_size"}),
    ),
    *map(_catalogued, ("worst_class_coverage", "singletons", "empty_sets")),
    Term(
        "Out of distribution (OOD)",
        "Inputs unlike those that the method was made for, such as texts on a subject that none of"
        " its classes covers. They are the positive class of the scores below; u is the uncertainty"
        " of an out-of-distribution example, v that of an in-distribution one.",
        keys=frozenset({"ood"}),
    ),
    Term(
        "AUROC",
        "The probability that an out-of-distribution example has a higher uncertainty than an"
        " in-distribution one, both drawn at random. 0.5 is chance, 1 is perfect.",
        (Formula("AUROC = P(u > v) + 1/2 P(u = v)"),),
        "Hanley and McNeil 1982, Radiology 143",
        frozenset({"ood", "auroc"}),
    ),
    Term(
        "AUPR",
        "The mean precision of flagging the most uncertain examples first. Chance gives the share"
        " of out-of-distribution examples among all. Over thresholds k, P is the precision and R"
        " the share of out-of-distribution examples that are flagged.",
        (Formula("AUPR = ∑_k (R_k − R_{k − 1}) P_k"),),
        "Hendrycks and Gimpel 2017, arXiv 1610.02136",
        frozenset({"ood", "aupr"}),
    ),
    Term(
        "AUPR, in-distribution",
        "The AUPR with in-distribution examples as the positive class, the least uncertain first."
        " Chance gives their share among all examples.",
        source="Hendrycks and Gimpel 2017, arXiv 1610.02136",
        keys=frozenset({"ood", "aupr_in"}),
    ),
    Term(
        "FPR95",
        "The share of in-distribution examples that are flagged at the threshold that flags 95 % of"
        " the out-of-distribution examples. Lower is better.",
        (Formula("FPR95 = P(v ≥ t)"), Formula("t = max { s : P(u ≥ s) ≥ 0.95 }")),
        "Liang, Li and Srikant 2018, arXiv 1706.02690",
        frozenset({"ood", "fpr95"}),
    ),
    Term(
        "Near and far sets",
        "Kinds of out-of-distribution sets, named by the author of the report. Scores of a kind are"
        " means over its sets, which count equally.",
        source="Yang et al. 2022, arXiv 2210.07242",
        keys=frozenset({"ood_groups"}),
    ),
    Term(
        "Total, aleatoric, epistemic uncertainty",
        "In nats. Total: the entropy of the predicted probabilities. Aleatoric: the part"
        " that more data would not reduce, the mean entropy over S draws of the weights. Epistemic:"
        " the rest, from not knowing the weights; zero for a single set of weights.",
        (
            Formula("total = − ∑_c p_{i, c} log p_{i, c}"),
            Formula("aleatoric = − 1/S ∑_s ∑_c p_{s, i, c} log p_{s, i, c}"),
            Formula("epistemic = total − aleatoric"),
        ),
        "Depeweg et al. 2018, arXiv 1710.07283",
    ),
    Term(
        "Intervals",
        "95 % intervals of scores are bootstrap intervals over examples; of calibration errors,"
        " to which noise only adds, reflected ones that start at zero where chance alone explains"
        " the error. Intervals of a share k of m examples, such as the accuracy of a bin, are"
        " Wilson's, with z = 1.96; so is that of an accuracy of 1. Where the worst of several bins"
        " or classes is named, its interval is simultaneous over them (Bonferroni). Below 10"
        " examples, or 10 clusters, other scores have none. They cover the choice of the examples,"
        " not another training seed. On a few hundred examples, those of the class-wise ECE and of"
        " the Brier score's resolution are too narrow.",
        (Formula("1/(1 + z²/m) (k/m + z²/(2 m) ± z √(1/m · k/m (1 − k/m) + z²/(4 m²)))"),),
        "Davison and Hinkley 1997, Bootstrap Methods and their Application; Wilson 1927, Journal of"
        " the American Statistical Association 22",
    ),
    # Adapter changes: size, directions and orthogonality.
    Term(
        "Norm and relative norm of a change",
        "How far training moved the weight W of a layer: the Frobenius norm of the change ΔW, and"
        " its share of the norm of W.",
        (Formula('"relative norm" = ‖ΔW‖_F/‖W‖_F'),),
        keys=frozenset({"spectra"}),
    ),
    Term(
        "Stable rank",
        "How many directions the change of a weight really uses: 1 where one singular value σ is"
        " all there is, the rank where all are equal. σ with the index 1 is the largest.",
        (Formula('"stable rank" = (∑_i (σ_i)²)/(σ_1)²'),),
        "Rudelson and Vershynin 2007, arXiv math/0503442",
        frozenset({"spectra"}),
    ),
    Term(
        "Drift",
        "How far a layer's factors Z that training is to keep orthonormal are from that: 0 is"
        " exact, and 0 is also said of adapters without such factors.",
        (Formula("drift = max_Z ‖Zᵀ Z − I‖_F"),),
        keys=frozenset({"spectra"}),
    ),
)
"""The terms in the order they appear."""


def terms_for(keys: Iterable[str]) -> tuple[Term, ...]:
    """Return the terms of some keys, in order; see `Term`."""
    present = frozenset(keys)
    return tuple(term for term in TERMS if not term.keys or term.keys & present)
