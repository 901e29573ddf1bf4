"""Further tables of `posteriors`: detection by score, distances to the chains."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from bayeslora.metrics.differences import DISTANCES
from bayeslora.posteriors.last_layer.nuts import RHAT_LIMIT
from benchmarks.lib.detection import FEATURE_DISTANCES
from benchmarks.lib.tables import Rows, shown, table
from benchmarks.posteriors.distances import EXACT, PRIOR_SCALE

OF_FITS = ("max_probability", "energy", "max_logit", *FEATURE_DISTANCES)
SETS = ("near", "far")

DETECTION_TITLE = (
    "### Out-of-distribution scores\n\n"
    "AUROC of out-of-distribution rows against test rows. Distances to the training rows see the "
    "features alone and stand with the fit that made them."
)


def detection_table(methods: Mapping[str, Rows]) -> list[str]:
    """Return title and table of detection by score; empty if no scores are stored."""
    lines = []
    for name, rows in sorted(methods.items()):
        stored = set.intersection(*(set(row) for row in rows.values()))
        has_features = f"far {FEATURE_DISTANCES[0]}" in stored
        for score in OF_FITS if has_features else ():
            if f"far {score}" in stored:
                cells = [_cell(rows, f"{split} {score}", stored) for split in SETS]
                lines.append([name, score, str(len(rows)), *cells])
    head = ["features or last layer", "score", "seeds", *(f"{split} AUROC" for split in SETS)]
    return [DETECTION_TITLE, table(head, lines)] if lines else []


def distance_table(contents: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return title and table of distances to the chains; empty if none are stored.

    Args:
        contents: Stored fits of one data set.
    """
    methods: dict[tuple[str, str], Rows] = defaultdict(dict)
    for content in contents:
        for row in content.get("distances", ()):
            features = f"{content['adapter']} {content['fit']}"
            methods[features, row["method"]][content["seed"]] = row
    chains = [row for (_, name), rows in methods.items() if name == EXACT for row in rows.values()]
    if not chains:
        return []
    lines = []
    for (features, method), rows in methods.items():
        if method != EXACT:
            stored = set.intersection(*(set(row) for row in rows.values()))
            cells = [_cell(rows, key, stored) for key in DISTANCES]
            lines.append([features, method, str(len(rows)), *cells])
    head = ["features", "method", "seeds", "total variation", "epistemic ratio"]
    return [_distance_title(chains), table(head, lines)]


def _distance_title(chains: Sequence[Mapping[str, Any]]) -> str:
    worst = max(row["chosen"]["max_rhat"] for row in chains)
    fewest = min(row["chosen"]["min_ess"] for row in chains)
    above = sum(row["chosen"]["max_rhat"] > RHAT_LIMIT for row in chains)
    return (
        "### Distance to the exact posterior\n\n"
        f"From `{EXACT}` on the same features and under the same prior: each weight "
        f"N(0, τ² / mean ‖φ‖²) with τ = {PRIOR_SCALE:g}, the prior standard deviation of a logit. "
        "Methods that would choose their prior are fitted with this one here, so these are not the "
        "rows above. Total variation is ½ Σ |p − r|, the mean over test rows; the ratio is that of "
        "mean epistemic uncertainty, 1 where the two agree and above where the method is the less "
        "certain. `map` and Laplace stand where training stopped, before the mode; `vbll` rows "
        "have fitted means, with `laplace_refinement=true` those and a Laplace covariance, which "
        "tells what of Laplace's distance is the covariance's. The chains have a noise of their "
        f"own, which is in every distance: R-hat is above {RHAT_LIMIT}, the usual limit, in "
        f"{above} of {len(chains)} ({worst:.3f} at worst), the smallest effective sample size "
        f"{fewest:.0f}."
    )


def _cell(rows: Rows, column: str, stored: set[str]) -> str:
    return shown([row[column] for row in rows.values()]) if column in stored else ""
