"""Tables for a terminal: scores of one or more methods, and their paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from textwrap import fill

from bayeslora.metrics.compare import Comparison
from bayeslora.metrics.scores import LEAST_ROWS, NO_INTERVAL, SCORES, Scores
from bayeslora.plain_text import as_label, counted, display_columns
from bayeslora.predictions.collection import unique_labels
from bayeslora.predictions.record import Predictions
from bayeslora.reporting import score_tables as tables_of
from bayeslora.reporting.blocks import Table
from bayeslora.reporting.sentences import detector_notes, set_sentences, verdict_of
from bayeslora.reporting.text import classes_of, pad, plain, say, score_words

WIDTH = 100
"""Default width of the terminal, in columns."""


def scores_table(
    scores: Sequence[Scores], width: int = WIDTH, keys: Sequence[str] | None = None
) -> str:
    """Return the scores as text without a trailing newline.

    Several methods are shown as one row each, with intervals below the values; columns that exceed
    `width` follow in further tables. A single method is shown as a list of its scores.

    Args:
        scores: Results of `evaluate`, one per method.
        width: Columns of the terminal.
        keys: The only scores to show, in this order; None shows a selection.
    """
    labels = unique_labels([result.name or "unnamed" for result in scores])
    named = [replace(each, name=label) for each, label in zip(scores, labels, strict=True)]
    names = list(dict.fromkeys(name for result in scores for name in result.ood))
    sets = dict(zip(names, unique_labels(names), strict=True)) if keys is None else {}
    if len(named) > 1:
        blocks = [_within(tables_of.score_table(named, sets, keys), width)]
    else:
        blocks = [to_text(_list_of_scores(named[0], sets, keys))]
    tables = [
        *tables_of.group_tables(named),
        tables_of.class_table(named),
        *tables_of.confusion_tables([method for method in named if method.classes]),
    ]
    blocks += [
        f"{_lines([table.caption], width)}\n{_within(table, width)}"
        for table in tables
        if table.rows
    ]
    text = "\n\n".join(blocks)
    notes = []
    if tables_of.CHANCE_COLUMN.title in text:
        notes.append(f"{say('ece_corrected')} {say('chance')}")
    notes += _on_missing_intervals(text)
    notes += [
        f"{f'{method.name}, ' if len(named) > 1 else ''}{label}: {note}"
        for method in named
        for name, label in sets.items()
        if name in method.ood
        for note in detector_notes(method.ood[name])
    ]
    cut = tables_of.clamped_note(named) if keys is None or "nll" in keys else ""
    notes += [cut, _rows_and_intervals(scores)]
    return f"{text}\n\n{_lines(notes, width)}"


def summary_line(scores: Sequence[Scores]) -> tuple[str, bool]:
    """Return the calibration of every method in one line, and whether any is miscalibrated.

    The line is empty if no example has a label, or scores are means over seeds.
    """
    judged = [
        result for result in scores if "nll" in result and "num_seeds" not in result.intervals
    ]
    verdicts = [verdict_of(result) for result in judged]
    words = [text for text, _ in verdicts]
    if len(scores) > 1:
        pairs = zip(judged, words, strict=True)
        words = [f"{each.name or 'unnamed'}: {text[0].lower()}{text[1:]}" for each, text in pairs]
    return "; ".join(words), any(kind == "warning" for _, kind in verdicts)


def sets_text(predictions: Predictions, scores: Scores, width: int = WIDTH) -> str:
    """Return sentences on the prediction sets, as text without a trailing newline."""
    return _lines(set_sentences(predictions, scores), width)


def compare_table(comparison: Comparison, width: int = WIDTH) -> str:
    """Return paired differences as text without a trailing newline."""
    table = tables_of.difference_table(comparison)
    text = _within(table, width)
    return f"{text}\n\n{_lines([table.caption, table.notes, *_on_missing_intervals(text)], width)}"


def comparison_line(comparison: Comparison) -> str:
    """Return the best method in one line, and the methods that it is clearly better than."""
    best, by = comparison.rows[0], comparison.by
    text = f"Best {SCORES[by].title}: {tables_of.with_seeds(best)}"
    if by not in best.scores:
        return text
    text += f", {best.scores[by].value:.3f}"
    if best.name != comparison.reference:
        clearly = "clearly" if best.is_clear(by) else "not clearly"
        return f"{text}; {clearly} better than {as_label(comparison.reference)}"
    worse = ", ".join(tables_of.with_seeds(row) for row in comparison.rows if row.is_clear(by))
    return f"{text}; clearly better than {worse}" if worse else f"{text}; no clear difference"


def _on_missing_intervals(text: str) -> list[str]:
    return [say("no_interval_note", least=LEAST_ROWS)] if NO_INTERVAL in text else []


def _lines(notes: Sequence[str], width: int) -> str:
    """Return non-empty notes, each wrapped to `width`."""
    return "\n".join(fill(plain(note), width) for note in notes if note)


def _within(table: Table, width: int) -> str:
    """Return the table as text, split into parts if wider than `width`."""
    starts = [0]
    for index in range(len(table.columns)):
        wider = to_text(table.part(columns=slice(starts[-1], index + 1))).splitlines()
        if index > starts[-1] and any(display_columns(line) > width for line in wider):
            starts.append(index)
    ends = [*starts[1:], len(table.columns)]
    parts = (slice(*part) for part in zip(starts, ends, strict=True))
    return "\n\n".join(to_text(table.part(columns=part)) for part in parts)


def to_text(table: Table) -> str:
    """Return aligned columns, with intervals and p below the values, and stars at the best ones."""
    left, columns = len(table.headings), table.columns
    head = [[*table.headings, *(column.title_and_arrow or column.detail for column in columns)]]
    if table.has_second_line:
        head.append([""] * left + [column.detail if column.title else "" for column in columns])
    body = []
    for row in table.rows:
        body.append([*row.headings, *("*" * cell.best + cell.value for cell in row.cells)])
        body += [[""] * left + line for line in row.lines_below]
    widths = [max(map(display_columns, column)) for column in zip(*head, *body, strict=True)]
    lines = [
        "  ".join(
            pad(cell, width, right=index >= left)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in (*head, ["─" * width for width in widths], *body)
    ]
    return "\n".join(line.rstrip() for line in lines)


def _list_of_scores(method: Scores, sets: Mapping[str, str], keys: Sequence[str] | None) -> Table:
    shown = tables_of.LISTED_KEYS if keys is None else keys
    cells = {}
    for key in shown:
        if key in method:
            title = tables_of.COLUMNS[key].title_and_arrow
            digits = tables_of.digits_of(key, method, shown)
            cells[title] = tables_of.score_cell(key, method[key], digits=digits)
            if key == "ece":
                cells[tables_of.CHANCE_COLUMN.title] = tables_of.chance_cell(method)
    for name, label in sets.items():
        result = method.ood[name]
        by = f"{label} ({counted(result.n_out, 'row')}), {score_words(result.score)}"
        for key, column in tables_of.OOD_COLUMNS.items():
            if (score := result.by_score[result.score].get(key)) is not None:
                cells[f"{column.title_and_arrow} {by}"] = tables_of.score_cell(key, score)
    heading = f"{method.name} ({counted(method.n_labelled, 'labelled example')})"
    return tables_of.score_list(heading, cells)


def _rows_and_intervals(scores: Sequence[Scores]) -> str:
    notes = scores[0].intervals
    rows = sorted({f"{result.n_labelled:,}" for result in scores})
    drawn = f"{notes.get('num_resamples', 0):,} resamples, seed {notes.get('seed')}"
    drawn = f"{notes['num_seeds']} seeds" if "num_seeds" in notes else drawn
    return (
        f"n = {' or '.join(rows)} labelled examples, {classes_of(scores[0])}, "
        f"{scores[0].num_bins} bins; 95 % intervals, {notes['method']}, {drawn}"
    )
