"""Files that Hypothesis makes up from nothing, the same ones in every run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from . import nasty, silent, world
from .cases import Case, Finding

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(exclude_categories=[]), max_size=12),
    st.sampled_from(nasty.TEXTS),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
_TEXTS = st.sampled_from(("the cat barks", "warm rain", "tasty soup")) | _VALUES
_LABELS = st.sampled_from(("animals", "food", "weather", None, 0, 1)) | _VALUES
_ROWS = st.lists(
    st.fixed_dictionaries(
        {"text": _TEXTS}, optional={"label": _LABELS, "id": _VALUES, "x": _VALUES}
    ),
    min_size=1,
    max_size=5,
)
_SHARES = st.sampled_from((0.0, 0.25, 0.5, 0.75, 1.0)) | st.floats() | _SCALARS


@st.composite
def _scored(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Return rows of predictions that are good but for one or two places."""
    first = draw(st.sampled_from((0.1, 0.25, 0.5, 0.9, 1.0)))
    rows: list[dict[str, Any]] = [
        {"id": f"r{n}", "label": ("a", "b")[n % 2], "prob_a": first, "prob_b": 1 - first}
        for n in range(draw(st.integers(1, 5)))
    ]
    for _ in range(draw(st.integers(0, 2))):
        row = draw(st.sampled_from(rows))
        key = draw(
            st.sampled_from(("id", "label", "prob_a", "prob_b", "total", "score_x", "set_a"))
        )
        row[key] = draw(_SHARES if key.startswith("prob") else _VALUES)
    return rows


def _lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def _cells(table: list[list[str]]) -> bytes:
    return "\n".join(",".join(row) for row in table).encode("utf-8", "surrogatepass")


_CELLS = st.text(st.sampled_from("ab\"', \t;\n\r\x00\u200b01.-="), max_size=6)
_TABLES = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.lists(_CELLS, min_size=width, max_size=width), max_size=4).map(
        lambda rows: [["text", "label", "id"][:width], *rows]
    )
)
_PREDICT = ("predict", "model", "{}", "--out", "out.parquet", *world.PREDICT)
_CONVERT = ("convert", "{}", "--out", "out.parquet")
_DATA, _SCORES = silent.as_data(silent.predicted), silent.as_predictions(silent.converted)


def _kinds() -> list[tuple[str, st.SearchStrategy[bytes], tuple[object, ...], silent.Check, int]]:
    return [
        ("rows.jsonl", _ROWS.map(_lines), _PREDICT, _DATA, 120),
        ("any.jsonl", st.lists(_VALUES, max_size=3).map(_lines), _PREDICT, _DATA, 40),
        ("table.csv", _TABLES.map(_cells), _PREDICT, _DATA, 80),
        ("scored.jsonl", _scored().map(_lines), _CONVERT, _SCORES, 120),
        ("odd.jsonl", st.lists(_VALUES, max_size=3).map(_lines), _CONVERT, _SCORES, 40),
    ]


def cases(source: Path, scenario: str) -> Iterator[Case]:
    """Return a case for each made-up file."""
    for name, strategy, argv, check, count in _kinds():
        for number, content in enumerate(_drawn(strategy, count)):
            run = partial(_case, source, name, content, argv, check)
            yield Case(scenario, "made up by Hypothesis", f"{name} {number:03d}", run)


def _drawn(strategy: st.SearchStrategy[bytes], count: int) -> list[bytes]:
    found: list[bytes] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(content: bytes) -> None:
        found.append(content)

    collect()
    return list(dict.fromkeys(found))


def _case(
    source: Path,
    name: str,
    content: bytes,
    argv: tuple[object, ...],
    check: silent.Check,
    room: Path,
) -> Finding:
    from .malformed import judged

    world.copy(source, room)
    (room / name).write_bytes(content)
    words = tuple(str(word).replace("{}", name) for word in argv)
    return judged(words, room, name, check, f"{content!r:.300}")
