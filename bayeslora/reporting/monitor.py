"""The batches of `bayeslora monitor` as texts, and as one page that opens offline."""

from __future__ import annotations

from bayeslora.decisions.monitor import Batch, State
from bayeslora.plain_text import as_label, counted
from bayeslora.reporting.blocks import Cell, Column, Document, Finding, Row, Section, Table
from bayeslora.reporting.page import render
from bayeslora.reporting.text import interval, named, number, p_text

COLUMNS = ("rows", "labelled", "accuracy", "expected", "p, labels", "p, drift", "drift level")
_NOTES = (
    "Expected: the mean confidence, and the interval that holds the accuracy of so many rows with "
    "95 % probability if the confidences are right. p, labels: for all labelled rows so far; valid "
    "after every batch. p, drift: the smallest Holm-corrected p-value of the batch's tests against "
    "the rows of the calibration; it rejects at or below the drift level."
)


def cells(batch: Batch) -> tuple[str, ...]:
    """Return the texts of a batch, in the order of `COLUMNS`."""
    drift = min(batch.drift.values(), default=None)
    return (
        f"{batch.rows:,}",
        f"{batch.labelled:,}",
        "–" if batch.accuracy is None else number(batch.accuracy),
        f"{number(batch.expected)} {interval(batch.low, batch.high)}",
        p_text(batch.p),
        "–" if drift is None else p_text(drift),
        "–" if drift is None else p_text(batch.drift_level),
    )


def verdict(state: State) -> str:
    """Return whether a test rejects, and the first batch with such a test."""
    batch = next((batch for batch in state.batches if batch.alarms), None)
    if batch is None:
        rows = sum({batch.hash: batch.rows for batch in state.batches}.values())
        return f"no alarm after {counted(rows, 'row')}"
    return f"alarm since {as_label(batch.name)}: {as_label(', '.join(batch.alarms))}"


def monitor_page(state: State) -> str:
    """Return the page."""
    rows = tuple(
        Row(
            (str(place), as_label(batch.name), as_label(", ".join(batch.alarms) or "–")),
            tuple(map(Cell, cells(batch))),
        )
        for place, batch in enumerate(state.batches, 1)
    )
    table = Table(
        "Every batch, in order.",
        ("batch", "name", "alarms"),
        tuple(map(Column, COLUMNS)),
        rows,
        notes=_NOTES,
        name="all-batches",
        sortable=False,
    )
    text = f"{named(verdict(state))}."
    finding = Finding("alarm", "Calibration", (text,), "warning" if state.alarm else "good")
    facts = f"probability of a false alarm: at most {state.level:.3g}"
    document = Document("Monitor", facts, (Section("batches", "Batches", (finding, table)),))
    return render("monitor.html.j2", {"page": document}, script="report.js", styles=("report.css",))
