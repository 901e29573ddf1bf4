"""Tables for a terminal: scores of one or more methods, and their paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from textwrap import fill

from bayeslora.metrics.catalogue import SCORE_KEYS, SCORES
from bayeslora.metrics.compare import Comparison
from bayeslora.metrics.scores import LEAST_ROWS, NO_INTERVAL, Scores
from bayeslora.plain_text import as_label, counted, display_columns
from bayeslora.predictions.collection import unique_labels
from bayeslora.predictions.record import Predictions
from bayeslora.reporting import score_tables as tables_of
from bayeslora.reporting.comparison import comparison_notes, difference_table, heading
from bayeslora.reporting.sentences import detector_notes, set_sentences, single_rows, verdict_of
from bayeslora.reporting.tables import Table, to_text
from bayeslora.reporting.text import (
    NAME_END,
    NAME_START,
    classes_of,
    say,
    score_words,
)

WIDTH = 100
"""Default width of the terminal, in columns."""

_STAR = "* best of its column, or their intervals overlap (paired differences: bayeslora compare)"
_PLAIN = str.maketrans("", "", NAME_START + NAME_END)


def scores_table(
    scores: Sequence[Scores], width: int | None = WIDTH, keys: Sequence[str] | None = None
) -> str:
    """Return the scores as text without a trailing newline.

    Several methods are shown as one row each, with intervals below the values; columns that exceed
    `width` follow in further tables. A single method is shown as a list of its scores.

    Args:
        scores: Results of `evaluate`, one per method.
        width: Columns of the terminal. None without a terminal: each row is a single line, and
            notes that explain the columns are left out.
        keys: The only scores to show, in this order; None shows a selection. Mean uncertainties are
            added for a single method, or if every score is shown.
    """
    labels = unique_labels([result.name or "unnamed" for result in scores])
    named = [replace(each, name=label) for each, label in zip(scores, labels, strict=True)]
    names = list(dict.fromkeys(name for result in scores for name in result.ood))
    sets = dict(zip(names, unique_labels(names), strict=True)) if keys is None else {}
    if len(named) > 1:
        blocks = [_within(tables_of.score_table(named, sets, keys, chance=True), width)]
    else:
        blocks = [to_text(_list_of_scores(named[0], sets, keys), sparse=width is None)]
    # Three rows per method would be too many for several methods.
    detailed = len(named) == 1 if keys is None else set(SCORE_KEYS) <= set(keys)
    tables = [
        *([tables_of.uncertainty_table(named)] if detailed else []),
        *tables_of.group_tables(named),
        tables_of.class_table(named),
        *tables_of.confusion_tables([method for method in named if method.classes]),
    ]
    blocks += [_within(table, width) for table in tables if table.rows]
    notes = []
    if len(named) > 1 and "*" in blocks[0]:
        notes.append(_STAR)
    if width is not None and tables_of.CHANCE_COLUMN.title in blocks[0]:
        notes.append(f"{say('ece_corrected')} {say('chance')}")
    notes += _on_missing_intervals("".join(blocks), width)
    notes += [
        f"{f'{method.name}, ' if len(named) > 1 else ''}{label}: {note}"
        for method in named
        for name, label in sets.items()
        if name in method.ood
        for note in detector_notes(method.ood[name])
    ]
    cut = tables_of.clamped_note(named) if keys is None or "nll" in keys else ""
    notes += [cut, single_rows(named[0]), *_footnotes(scores)]
    return "\n\n".join([*blocks, _lines(notes, width)])


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


def compare_table(comparison: Comparison, width: int | None = WIDTH) -> str:
    """Return paired differences as text without a trailing newline, as wide as `scores_table`."""
    table = _within(difference_table(comparison), width)
    notes = [*comparison_notes(comparison, mark="*", brief=width is None)]
    notes += _on_missing_intervals(table, width)
    return f"{table}\n\n{_lines(notes, width)}"


def comparison_line(comparison: Comparison) -> str:
    """Return the best method in one line, and whether its lead is beyond chance."""
    best, *others = comparison.rows
    title = SCORES[comparison.by].title
    text = f"Best {title}: {heading(best)}"
    if comparison.by not in best.scores:
        return text
    text += f", {best.scores[comparison.by].value:.3f}"
    pairs = others if best.name == comparison.reference else [best]
    clear = [row for row in pairs if row.is_clear(comparison.by)]
    if best.name != comparison.reference:
        words = "clearly" if clear else "not clearly"
        return f"{text}; {words} better than the reference, {as_label(comparison.reference)}"
    worse = ", ".join(heading(row) for row in clear)
    return f"{text}; clearly better than {worse}" if clear else f"{text}; no clear difference"


def _on_missing_intervals(text: str, width: int | None) -> list[str]:
    is_missing = NO_INTERVAL in text and width is not None
    return [say("no_interval_note", least=LEAST_ROWS)] if is_missing else []


def _lines(notes: Sequence[str], width: int | None) -> str:
    """Return non-empty notes, each on its own line, or wrapped to `width`."""
    plain = (note.translate(_PLAIN) for note in notes if note)
    return "\n".join(plain if width is None else (fill(note, width) for note in plain))


def _within(table: Table, width: int | None) -> str:
    """Return the table as text, split into parts if wider than `width`."""
    if width is None:
        return to_text(table, sparse=True)
    starts = [0]
    for index in range(len(table.columns)):
        wider = to_text(table.part(columns=slice(starts[-1], index + 1))).splitlines()
        if index > starts[-1] and any(display_columns(line) > width for line in wider):
            starts.append(index)
    ends = [*starts[1:], len(table.columns)]
    parts = (slice(*part) for part in zip(starts, ends, strict=True))
    return "\n\n".join(to_text(table.part(columns=part)) for part in parts)


def _list_of_scores(method: Scores, sets: Mapping[str, str], keys: Sequence[str] | None) -> Table:
    shown = (
        tables_of.LISTED_COLUMNS if keys is None else {key: tables_of.COLUMNS[key] for key in keys}
    )
    cells = {}
    for key, column in shown.items():
        if key in method:
            digits = tables_of.digits_of(key, method, shown)
            cells[column.title_and_arrow] = tables_of.score_cell(key, method[key], digits=digits)
            if key == "ece":
                cells[tables_of.CHANCE_COLUMN.title] = tables_of.chance_cell(method)
    for name, result in method.ood.items() if keys is None else ():
        by = f"{sets[name]} ({counted(result.n_out, 'row')}), {score_words(result.score)}"
        for key, column in tables_of.OOD_COLUMNS.items():
            if (score := result.by_score[result.score].get(key)) is not None:
                cells[f"{column.title_and_arrow} {by}"] = tables_of.score_cell(key, score)
    heading = f"{method.name} ({counted(method.n_labelled, 'labelled example')})"
    return tables_of.score_list(heading, cells)


def _footnotes(scores: Sequence[Scores]) -> list[str]:
    notes = scores[0].intervals
    rows = sorted({f"{result.n_labelled:,}" for result in scores})
    intervals = f"95 % intervals, {notes['method']}"
    if "num_seeds" in notes:
        intervals += f", {notes['num_seeds']} seeds"
    else:
        intervals += f", {notes['num_resamples']:,} resamples, seed {notes['seed']}"
    shown = {classes_of(result) for result in scores if "options" in classes_of(result)}
    parts = [f"n = {' or '.join(rows)} labelled examples", *shown, f"{scores[0].num_bins} bins"]
    return [f"{', '.join(parts)}; {intervals}", tables_of.sets_note(scores)]
