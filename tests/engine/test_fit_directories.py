"""Who may write to an output directory, and when a fit resumes there."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from crashes import survivors
from refusal import refused
from tiny import toy_rows

from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import data_hash
from bayeslora.data.read import load_examples
from bayeslora.durable import remove
from bayeslora.engine.data import read_labelled
from bayeslora.engine.training.checkpoints import (
    claim,
    is_interrupted,
    refuse,
    restored,
)
from bayeslora.errors import InputError

IDENTITY = {"seed": 0, "adapter": {"name": "lora", "r": 8, "targets": ("q", "v")}}
OTHER = {**IDENTITY, "seed": 1}
MODEL = '{"format_version": 1, "backbone": {}, "posterior": {}, "classes": []}'


def contents(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_new_directory_is_marked(tmp_path):
    out = tmp_path / "runs" / "model"
    refuse(out, IDENTITY)
    assert not out.exists()
    work = claim(out, IDENTITY)
    assert work.parent == out
    assert is_interrupted(out)
    assert contents(out) == ["interrupted-fit.json"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_the_same_fit_goes_on(tmp_path, overwrite):
    work = claim(tmp_path / "model", IDENTITY)
    (work / "member-0").mkdir(parents=True)
    again = claim(tmp_path / "model", dict(IDENTITY), overwrite=overwrite)
    assert again == work
    assert (work / "member-0").is_dir()


def test_another_fit_is_refused_and_the_difference_named(tmp_path):
    claim(tmp_path / "model", IDENTITY)
    with refused("another-fit", "seed"):
        claim(tmp_path / "model", OTHER)
    # With permission it starts from scratch.
    (tmp_path / "model" / "checkpoints").mkdir()
    claim(tmp_path / "model", OTHER, overwrite=True)
    assert contents(tmp_path / "model") == ["interrupted-fit.json"]
    assert json.loads((tmp_path / "model" / "interrupted-fit.json").read_text())["seed"] == 1


def test_what_is_known_late_is_compared_late(tmp_path):
    out = tmp_path / "model"
    claim(out, {**IDENTITY, "weights": "one"})
    refuse(out, IDENTITY)
    claim(out, {**IDENTITY, "weights": "one"})
    with refused("another-fit", "weights"):
        claim(out, {**IDENTITY, "weights": "two"})


def test_a_finished_model_needs_permission(tmp_path):
    out = tmp_path / "model"
    out.mkdir()
    (out / "bayeslora.json").write_text(MODEL)
    with refused("exists"):
        claim(out, IDENTITY)
    assert contents(out) == ["bayeslora.json"]
    # The old model stays until the new one is written.
    work = claim(out, IDENTITY, overwrite=True)
    assert contents(out) == ["bayeslora.json", "interrupted-fit.json"]
    (work / "member-0").mkdir(parents=True)
    assert claim(out, IDENTITY) == work
    assert (work / "member-0").is_dir()
    claim(out, OTHER, overwrite=True)
    assert contents(out) == ["bayeslora.json", "interrupted-fit.json"]
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


def test_a_second_text_is_part_of_the_hash():
    rows = [{"text": "a b", "pair": "c", "label": "x"}, {"text": "d", "pair": "e", "label": "y"}]
    moved = [{"text": "a", "pair": "b c", "label": "x"}, rows[1]]
    pairs = DataColumns(pair="pair")
    assert data_hash(read_labelled(rows, pairs)) != data_hash(read_labelled(moved, pairs))
    assert data_hash(read_labelled(rows, pairs)) != data_hash(read_labelled(rows, DataColumns()))


def test_everything_that_a_question_asks_is_part_of_the_hash():
    row = {"question": "why", "choices": ["a", "b"], "answer": 0}
    item = {"history": ["one", "two"], "candidates": ["a", "b"], "answer": 1}

    def hashed(row):
        return data_hash(load_examples([row]))

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


def test_twins_that_stay_together_are_part_of_the_hash():
    rows = load_examples([{"question": "why", "choices": ["a", "b"], "answer": 0}] * 2)
    together, apart = (replace(rows, groups=groups) for groups in (("x", "x"), ("x", "y")))
    assert data_hash(together) != data_hash(apart)


def test_the_hash_of_texts_stays_what_it_was():
    """Interrupted fits and stored experiments of earlier versions are identified by it."""
    rows = [{"text": "a b", "pair": "c", "label": "x"}, {"text": "d", "pair": "e", "label": "y"}]
    pairs = read_labelled(rows, DataColumns(pair="pair"))
    assert data_hash(pairs) == "58fe25e91306928104146c3aab56e5dc"
    assert data_hash(read_labelled(rows, DataColumns())) == "e0b243fa5b4671f179cd8e3b6e9cd676"


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b'{"seed": ', b"\xff"])
def test_a_damaged_mark_starts_the_fit_over(tmp_path, caplog, content):
    out = tmp_path / "model"
    checkpoint = claim(out, IDENTITY) / "member-0" / "checkpoint-4"
    checkpoint.mkdir(parents=True)
    (checkpoint / "optimizer.pt").touch()
    (out / "interrupted-fit.json").write_bytes(content)
    claim(out, IDENTITY)
    assert contents(out) == ["interrupted-fit.json"]
    assert "interrupted-fit.json is damaged" in caplog.text
    claim(out, IDENTITY)
    # Never next to somebody's work, and never in place of a finished model.
    (out / "interrupted-fit.json").write_bytes(content)
    (out / "thesis.tex").touch()
    with refused("exists", "thesis.tex"):
        claim(out, IDENTITY)
    (out / "thesis.tex").rename(tmp_path / "thesis.tex")
    (out / "bayeslora.json").write_text(MODEL)
    with refused("exists"):
        claim(out, IDENTITY)
    claim(out, IDENTITY, overwrite=True)


@pytest.mark.parametrize("content", ["{}", "[]", '{"format_version": 2}', '{"version": 1}'])
def test_a_mark_of_another_program_is_kept(tmp_path, content):
    out = tmp_path / "model"
    out.mkdir()
    (out / "interrupted-fit.json").write_text(content)
    for overwrite in (False, True):
        with refused("damaged", "interrupted-fit.json"):
            claim(out, IDENTITY, overwrite=overwrite)
    assert (out / "interrupted-fit.json").read_text() == content


@pytest.mark.parametrize("before", [None, OTHER])
def test_a_claim_killed_at_any_point(tmp_path, monkeypatch, before):
    """The same command resumes, whatever state it finds."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    out = tmp_path / "model"
    if before is not None:
        (claim(out, before) / "member-0" / "checkpoint-4").mkdir(parents=True)
    overwrite = before is not None
    died = 0
    for _ in survivors(lambda: claim(out, IDENTITY, overwrite=overwrite)):
        died += 1
        assert not out.exists() or is_interrupted(out)
        claim(out, IDENTITY, overwrite=overwrite)
        # A leftover lock is deleted with the directory.
        left = set(contents(out)) - {".interrupted-fit.json.lock"}
        assert left == {"interrupted-fit.json"}
        assert json.loads((out / "interrupted-fit.json").read_text())["seed"] == 0
        remove(out)
        if before is not None:
            (claim(out, before) / "member-0" / "checkpoint-4").mkdir(parents=True)
    assert died


def test_a_deleted_directory_is_claimed_again(tmp_path):
    out = tmp_path / "model"
    claim(out, IDENTITY)
    assert not restored(out, IDENTITY, overwrite=False)
    remove(out)
    assert restored(out, IDENTITY, overwrite=False)
    assert is_interrupted(out)
    remove(out)
    out.mkdir()
    (out / "thesis.tex").touch()
    with refused("exists"):
        restored(out, IDENTITY, overwrite=False)


def test_the_working_directory_is_not_replaced(tmp_path, monkeypatch):
    out = tmp_path / "model"
    claim(out, IDENTITY)
    (out / "inside").mkdir()
    for place in (out, out / "inside"):
        monkeypatch.chdir(place)
        for path in (out, Path(os.path.relpath(out))):
            with pytest.raises(InputError, match="working directory"):
                refuse(path, IDENTITY, overwrite=True)


def test_a_link_leads_to_the_directory(tmp_path):
    """The link's target is claimed, so the link stays a link."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    assert claim(link, IDENTITY).parent == tmp_path / "elsewhere"
    assert link.is_symlink()
    assert is_interrupted(link)
