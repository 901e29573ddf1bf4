"""A predictions file assembled from pieces equals a file written at once."""

import json

import numpy as np
import pytest
from crashes import survivors
from refusal import refused

from bayeslora.predictions import parts as module
from bayeslora.predictions.parts import PredictionParts
from bayeslora.predictions.record import Predictions

IDENTITY = {"seed": "0", "data": "abc"}


def made(rows=23, labels=True):
    generator = np.random.default_rng(0)
    return Predictions(
        generator.dirichlet(np.ones(3), size=rows),
        ["a", "b", "c"],
        labels=np.where(np.arange(rows) < 9, -1, np.arange(rows) % 3) if labels else None,
        ids=[f"row {i}" for i in range(rows)],
        epistemic=generator.random(rows),
        scores={"knn": generator.random(rows)},
        columns={"note": [None if i < 12 else "x" for i in range(rows)]},
        name="lora-laplace",
        metadata={"seed": "0"},
    )


def add_all(parts, whole, size=4, numbers=None):
    for number, start in enumerate(range(0, len(whole), size)):
        if numbers is None or number in numbers:
            parts.add(number, whole.take(np.arange(start, min(start + size, len(whole)))))


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_pieces_joined_are_the_bytes_of_the_whole(tmp_path, monkeypatch, suffix, labels):
    monkeypatch.setattr(module, "ROW_GROUP", 10)
    monkeypatch.setattr("bayeslora.predictions.files.ROW_GROUP", 10)
    whole = made(labels=labels)
    whole.save(tmp_path / f"whole{suffix}")
    parts = PredictionParts(tmp_path / f"p{suffix}")
    parts.claim(IDENTITY, overwrite=False)
    add_all(parts, whole)
    parts.finish()
    assert (tmp_path / f"p{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"p{suffix}", f"whole{suffix}"]


def test_the_same_predictions_go_on(tmp_path):
    parts = PredictionParts(tmp_path / "p.parquet")
    parts.claim(IDENTITY, overwrite=False)
    assert parts.missing(6) == [0, 1, 2, 3, 4, 5]
    add_all(parts, made(), numbers=(0, 1, 3))
    again = PredictionParts(tmp_path / "p.parquet")
    again.claim(IDENTITY, overwrite=False)
    assert again.missing(6) == [2, 4, 5]


def test_other_predictions_are_refused_or_begun_anew(tmp_path):
    parts = PredictionParts(tmp_path / "p.parquet")
    parts.claim(IDENTITY, overwrite=False)
    add_all(parts, made())
    other = {**IDENTITY, "seed": "1"}
    with refused("input", "seed"):
        parts.claim(other, overwrite=False)
    assert parts.missing(6) == []
    parts.claim(other, overwrite=True)
    assert parts.missing(6) == [0, 1, 2, 3, 4, 5]
    assert json.loads((parts.folder / "predictions.json").read_text()) == other


def test_foreign_files_are_never_deleted(tmp_path):
    parts = PredictionParts(tmp_path / "p.parquet")
    parts.folder.mkdir()
    (parts.folder / "thesis.tex").write_text("mine")
    for overwrite in (False, True):
        parts.claim(IDENTITY, overwrite=overwrite)
        add_all(parts, made())
        parts.finish()
        assert [file.name for file in parts.folder.iterdir()] == ["thesis.tex"]


def test_killed_before_any_file_operation_it_ends_in_the_same_bytes(tmp_path):
    whole = made(rows=4)
    whole.save(tmp_path / "whole.parquet")
    expected = (tmp_path / "whole.parquet").read_bytes()
    out = tmp_path / "p.parquet"

    def left():
        return sorted(file.name for file in tmp_path.iterdir())

    def write():
        parts = PredictionParts(out)
        parts.claim(IDENTITY, overwrite=False)
        add_all(parts, whole, numbers=parts.missing(1))
        parts.finish()

    deaths = 0
    for _ in survivors(write):
        deaths += 1
        if out.exists():
            assert out.read_bytes() == expected
            PredictionParts(out).sweep()
            assert left() == ["p.parquet", "whole.parquet"]
        write()
        assert out.read_bytes() == expected
        out.unlink()
        assert left() == ["whole.parquet"]
    assert deaths > 10
