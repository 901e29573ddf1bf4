"""Scores as a small HTML table, for notebooks.

It stands beside the scores because it may need nothing above them: no figure, no template.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bayeslora.metrics.scores import Score, Scores


def scores_html(scores: Scores) -> str:
    """Return the scores with their intervals, and those of every out-of-distribution set."""
    name = escape(scores.name or "unnamed")
    seeds = scores.intervals.get("num_seeds")
    means = f", means over {seeds} seeds with t intervals" if seeds else ""
    rows = f"{scores.n_labelled:,} labelled of {scores.n:,} rows"
    caption = f"{name}: {rows}, {scores.num_bins} bins{means}"
    head = "<tr><th>score</th><th>value</th><th>95 % interval</th></tr>"
    body = "".join(f"<tr><th>{title}</th>{_cells(score)}</tr>" for title, score in _listed(scores))
    return (
        f'<table class="bayeslora-scores"><caption>{caption}</caption>'
        f"<thead>{head}</thead><tbody>{body}</tbody></table>"
    )


def _listed(scores: Scores) -> Iterator[tuple[str, Score]]:
    for key, score in scores.items():
        yield escape(key), score
    for name, one in scores.ood.items():
        by = f"{escape(name)} ({one.n_out:,} rows) by {escape(one.score)}"
        for key in ("auroc", "aupr", "fpr95"):
            yield f"{key}, {by}", getattr(one, key)


def _cells(score: Score) -> str:
    ends = f"[{score.low:.3f}, {score.high:.3f}]" if score.has_interval else "too few rows"
    return f"<td>{score.value:.3f}</td><td>{ends}</td>"
