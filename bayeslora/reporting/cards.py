"""One card a method: what it is, how it predicts, and what was done to its probabilities since.

Everything comes from the metadata of the predictions. Files of other tools have none, and their
cards say so rather than guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bayeslora.conformal.config import CONFORMAL
from bayeslora.plain_text import clean, counted, shorten
from bayeslora.recalibration.config import RECALIBRATORS
from bayeslora.reporting.assess import Assessed
from bayeslora.reporting.text import brief

LINK_WORDS = {
    "mc": "softmax of draws of the logits, averaged",
    "softmax": "softmax of each pass, averaged",
    "probit": "probit approximation of the mean of softmax",
    "bridge": "Laplace bridge to a Dirichlet",
}
"""How logits with a distribution become probabilities, in words."""

LONGEST_SUMMARY, LONGEST_SOURCES = 160, 400
"""Widest texts of a summary and of sources, in columns of a terminal."""

TOLD = frozenset({"adapter_summary", "posterior_summary", "sources"})
"""Metadata that stand on the cards alone."""

UNKNOWN = "Its file does not say how it was made; everything here is judged by its probabilities."


@dataclass(frozen=True)
class Card:
    """What is known of a method, plain text.

    Attributes:
        label: The method's label.
        summary: What it is, in a sentence.
        rows: Names and values.
    """

    label: str
    summary: str
    rows: tuple[tuple[str, str], ...]


def method_cards(methods: Sequence[Assessed]) -> tuple[Card, ...]:
    """Return a card for every method, in order."""
    return tuple(_card(one) for one in methods)


def _card(one: Assessed) -> Card:
    notes = one.method.predictions.metadata
    parts = [
        _described(notes[key], notes.get(f"{key}_summary", ""))
        for key in ("adapter", "posterior")
        if key in notes
    ]
    summary = " with ".join(parts) if notes else UNKNOWN
    unlabelled = one.scores.n - one.scores.n_labelled
    without = f", {unlabelled:,} of them without a label" if unlabelled else ""
    size = f"{counted(one.scores.n, 'row')} of {one.scores.num_classes} classes{without}"
    return Card(one.label, summary, (*_rows(notes), ("scored on", size)))


def _rows(notes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if share := notes.get("prior_share"):
        yield (
            "prior",
            f"{brief(share)} of the logits is the language model's own answer",
        )
    if link := notes.get("link"):
        yield "from logits to probabilities", LINK_WORDS.get(link, brief(link))
    if draws := notes.get("num_samples"):
        count = _whole(draws)
        yield "draws", brief(draws) if count is None else f"{count:,}"
    if passes := notes.get("passes"):
        yield "passes of the adapted layers", brief(passes)
    if before := notes.get("recalibration_before"):
        yield "recalibrated before", brief(before)
    yield from _later(notes, "recalibration", RECALIBRATORS, "recalibrated")
    yield from _later(notes, "conformal", CONFORMAL, "prediction sets")
    seeds = {"fit": notes.get("fit_seed"), "prediction": notes.get("seed")}
    known = [f"{name} {brief(seed)}" for name, seed in seeds.items() if seed]
    if known:
        yield "seeds", ", ".join(known)
    yield from _sources(notes)


def _later(
    notes: Mapping[str, str], key: str, registry: Mapping[str, Any], title: str
) -> Iterator[tuple[str, str]]:
    """Say what was fitted to the predictions afterwards, on how many rows."""
    if key in notes:
        rows = _whole(notes.get(f"{key}_rows", ""))
        fitted = "" if rows is None else f"; fitted to {counted(rows, 'row')}"
        alpha = notes.get("conformal_alpha", "") if key == "conformal" else ""
        meant = f"; at most a share of {brief(alpha)} missed" if alpha else ""
        known = getattr(registry.get(notes[key]), "summary", "")
        yield title, f"{_described(notes[key], known)}{meant}{fitted}"


def _sources(notes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    later = {"recalibration": RECALIBRATORS, "conformal": CONFORMAL}
    found = [registry.get(notes.get(key, "")) for key, registry in later.items()]
    known = [shorten(clean(notes["sources"]), LONGEST_SOURCES)] if notes.get("sources") else []
    known += [one.source for one in found if one is not None]
    sources = list(filter(None, known))
    if sources:
        yield "sources", "; ".join(sources)


def _described(name: str, summary: str) -> str:
    shown = shorten(clean(summary), LONGEST_SUMMARY) if summary else ""
    return f"{brief(name)} ({shown})" if shown else brief(name)


def _whole(text: str) -> int | None:
    """Return a whole number that a tool may have noted; None for anything else."""
    return int(text) if text.isdecimal() and len(text) <= 12 else None
