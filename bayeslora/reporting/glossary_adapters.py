"""Terms of what an adapter changed."""

from __future__ import annotations

from bayeslora.reporting import glossary_formulas as formulas
from bayeslora.reporting.term import SPECTRUM, Term

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
