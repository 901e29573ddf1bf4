"""Who may write to an output directory, and when a fit resumes there."""

import json

import pytest
from crashes import survivors
from refusal import refused
from tiny import toy_rows

from bayeslora.checkpoint import INTERRUPTED
from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import data_hash
from bayeslora.data.read import read
from bayeslora.engine.data import read_labelled
from bayeslora.engine.training import claim, refuse
from bayeslora.io import remove

IDENTITY = {"seed": 0, "adapter": {"name": "lora", "r": 8, "targets": ("q", "v")}}
OTHER = {**IDENTITY, "seed": 1}
MODEL = '{"format_version": 1, "backbone": {}, "posterior": {}, "classes": []}'


def is_interrupted(out):
    return (out / INTERRUPTED).is_file()


def contents(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_new_directory_is_marked(tmp_path):
    out = tmp_path / "runs" / "model"
    refuse(out, IDENTITY)
    assert not out.exists()
    work = claim(out, IDENTITY)
    assert work.parent == out
    assert is_interrupted(out)
    assert contents(out) == ["checkpoints", "interrupted-fit.json"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_the_same_fit_goes_on(tmp_path, overwrite):
    work = claim(tmp_path / "model", IDENTITY)
    (work / "member-0").mkdir()
    again = claim(tmp_path / "model", dict(IDENTITY), overwrite=overwrite)
    assert again == work
    assert (work / "member-0").is_dir()


def test_another_fit_is_refused_and_the_difference_named(tmp_path):
    claim(tmp_path / "model", IDENTITY)
    with refused("another-fit", "seed"):
        claim(tmp_path / "model", OTHER)
    # With permission it starts from scratch.
    (tmp_path / "model" / "checkpoints" / "member-0").mkdir()
    claim(tmp_path / "model", OTHER, overwrite=True)
    assert contents(tmp_path / "model") == ["checkpoints", "interrupted-fit.json"]
    assert json.loads((tmp_path / "model" / "interrupted-fit.json").read_text())["seed"] == 1


def test_a_finished_model_needs_permission(tmp_path):
    out = tmp_path / "model"
    out.mkdir()
    (out / "bayeslora.json").write_text(MODEL)
    with refused("exists"):
        claim(out, IDENTITY)
    assert contents(out) == ["bayeslora.json"]
    # The old model stays until the new one is written.
    work = claim(out, IDENTITY, overwrite=True)
    assert contents(out) == ["bayeslora.json", "checkpoints", "interrupted-fit.json"]
    (work / "member-0").mkdir()
    assert claim(out, IDENTITY) == work
    assert (work / "member-0").is_dir()
    claim(out, OTHER, overwrite=True)
    assert contents(out) == ["bayeslora.json", "checkpoints", "interrupted-fit.json"]
    assert json.loads((out / "interrupted-fit.json").read_text())["seed"] == 1


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_what_is_not_ours_is_never_deleted(tmp_path, kind):
    out = tmp_path / "thesis"
    if kind == "directory":
        out.mkdir()
        (out / "chapter.tex").write_text("years of work")
    else:
        out.write_text("years of work")
    with refused("exists", "thesis"):
        claim(out, IDENTITY, overwrite=True)
    with refused("exists"):
        claim(out, IDENTITY)
    assert "years of work" in (out / "chapter.tex" if kind == "directory" else out).read_text()


def test_an_empty_directory_may_be_used_with_permission(tmp_path):
    out = tmp_path / "empty"
    out.mkdir()
    claim(out, IDENTITY, overwrite=True)
    assert is_interrupted(out)


def test_the_hash_is_that_of_texts_labels_and_order():
    def hashed(rows):
        return data_hash(read_labelled(rows, DataColumns()))

    rows = toy_rows(6)
    first = hashed(rows)
    assert hashed([dict(row) for row in rows]) == first
    assert hashed([{**row, "id": f"x{n}"} for n, row in enumerate(rows)]) == first
    assert hashed(rows[::-1]) != first
    assert hashed(rows[:5]) != first
    assert hashed([{**rows[0], "text": rows[0]["text"] + " a"}, *rows[1:]]) != first
    assert hashed([{**rows[0], "label": "food"}, *rows[1:]]) != first


def test_everything_that_a_question_asks_is_part_of_the_hash():
    row = {"question": "why", "choices": ["a", "b"], "answer": 0}
    item = {"history": ["one", "two"], "candidates": ["a", "b"], "answer": 1}

    def hashed(row):
        return data_hash(read([row]))

    hashes = [
        hashed(row),
        hashed({**row, "choices": ["a", "c"]}),
        hashed({**row, "choices": ["a", "b", "c"]}),
        hashed({**row, "choices": ["b", "a"]}),
        hashed({**row, "context": "once"}),
        hashed({**row, "history": ["one", "two"]}),
        hashed({**row, "history": ["one", "three"]}),
        hashed(item),
        hashed({**item, "history": ["one\ntwo"]}),
    ]
    assert len({*hashes}) == len(hashes)


@pytest.mark.parametrize("before", [None, OTHER])
def test_a_claim_killed_at_any_point(tmp_path, before):
    """The same command resumes, whatever state it finds."""
    out = tmp_path / "model"
    if before is not None:
        (claim(out, before) / "member-0").mkdir()
    overwrite = before is not None
    died = 0
    for _ in survivors(lambda: claim(out, IDENTITY, overwrite=overwrite)):
        died += 1
        assert not out.exists() or is_interrupted(out)
        claim(out, IDENTITY, overwrite=overwrite)
        # A leftover lock is deleted with the directory.
        left = set(contents(out)) - {".interrupted-fit.json.lock"}
        assert left == {"checkpoints", "interrupted-fit.json"}
        assert json.loads((out / "interrupted-fit.json").read_text())["seed"] == 0
        remove(out)
        if before is not None:
            (claim(out, before) / "member-0").mkdir()
    assert died
