"""A part of the training file as validation rows, equal to a separate file, and the refit."""

import numpy as np
import pytest
import torch

from bayeslora import BayesianClassifier
from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import data_hash
from bayeslora.engine.cross_validation import split_off
from bayeslora.engine.data import TrainingData
from bayeslora.engine.loop import Loop

WORDS = ["red", "green", "blue", "warm", "cold", "round"]
ROWS = [
    {"text": f"{WORDS[n % 6]} {WORDS[n % 5]} {n}", "label": ("a", "b")[n % 6 < 3]}
    for n in range(32)
]
TEST = [{"text": f"{word} {word}", "label": "a"} for word in WORDS]
SHARE, NUM_HELD_OUT = 0.25, 8
QUICK = "vbll:prior_scale=2,link=probit"


def fitted(backbone, adapter="polar:r=2", posterior="vbll:link=probit", rows=ROWS, **options):
    clf = BayesianClassifier(backbone, adapter, posterior, dtype="float32", progress=False)
    length = {} if adapter == "none" else {"epochs": 3, "batch_size": 8}
    return clf.fit(rows, **(length | options))


def divided(rows=ROWS, share=SHARE, seed=0):
    return split_off(TrainingData.read(rows, None, DataColumns()), share, seed)


def test_a_text_is_in_one_part_and_every_row_in_one():
    rows = [*ROWS, *ROWS[:12]]
    data = divided(rows, 0.5)
    train, validation = data.train[0], data.validation[0]
    assert not {*train.texts} & {*validation.texts}
    assert sorted([*train.texts, *validation.texts]) == sorted(row["text"] for row in rows)
    assert len(data.train[1]) == len(train)
    assert {*data.train[1].tolist()} == {*data.validation[1].tolist()} == {0, 1}


@pytest.mark.parametrize("adapter", ["polar:r=2", "none"])
def test_rows_that_are_held_out_are_validation_rows(backbone, adapter):
    data = divided()
    apart = fitted(backbone, adapter, QUICK, rows=data.train[0], validation=data.validation[0])
    clf = fitted(backbone, adapter, QUICK, hold_out=SHARE)
    assert np.array_equal(clf.predict(TEST).probs, apart.predict(TEST).probs)
    assert clf.record.results == apart.record.results
    undivided = {"whole": data_hash(TrainingData.read(ROWS, None, DataColumns()).train[0])}
    assert clf.record.data == apart.record.data | undivided
    assert clf.record.training["hold_out"] == SHARE


@pytest.mark.parametrize("adapter", ["polar:r=2", "none"])
def test_a_refit_keeps_what_the_held_out_rows_chose(backbone, adapter, tmp_path):
    first = fitted(backbone, adapter, hold_out=SHARE)
    clf = fitted(backbone, adapter, hold_out=SHARE, refit=True, out=tmp_path / "m")
    results, chosen = clf.record.results, first.record.results["posterior"]
    held_out = results["held_out"]
    assert held_out["num_rows"] == NUM_HELD_OUT
    assert held_out["epochs"] == (first.record.results["best_epoch"],)
    assert held_out["logit_scale"] == chosen["logit_scale"]
    assert held_out["nll"] == pytest.approx(first.record.results["validation_nll"], rel=1e-6)
    assert results["best_epoch"] == first.record.results["best_epoch"]
    assert results["posterior"]["polish_mean"] == chosen["polish_mean"]
    assert clf.record.num_train == len(ROWS)
    assert clf.record.data["validation"] is None
    assert "validation_nll" not in results
    assert not np.array_equal(clf.predict(TEST).probs, first.predict(TEST).probs)
    again = BayesianClassifier.from_pretrained(tmp_path / "m", progress=False)
    assert np.array_equal(again.predict(TEST).probs, clf.predict(TEST).probs)
    assert f"{NUM_HELD_OUT} held-out rows" in (tmp_path / "m" / "README.md").read_text()


@pytest.mark.parametrize("posterior", ["gvbll", "gvbll:inflation=2", "laplace"])
def test_a_refit_chooses_nothing_on_the_rows_that_it_trains_on(backbone, posterior):
    posterior += ":prior_precision=validation" if posterior == "laplace" else ""
    first, clf = (
        fitted(backbone, "lora:r=2", posterior, hold_out=SHARE, refit=refit)
        for refit in (False, True)
    )
    chosen, again = first.record.results["posterior"], clf.record.results["posterior"]
    for option in {"shrinkage", "inflation", "prior_precision"} & chosen.keys():
        assert again[option] == pytest.approx(chosen[option], rel=1e-6)
    assert not np.array_equal(clf.predict(TEST).probs, first.predict(TEST).probs)


def test_a_refit_follows_the_schedule_of_all_epochs_and_stops_earlier(backbone, monkeypatch):
    """Its first epoch equals that of a fit to all rows with the maximum number of epochs."""
    end, seen = Loop.end_epoch, []

    def watched(loop, loss):
        seen.append(
            (loop.fit.num_train, loop.epoch + 1, [*loop.fit.network.trained_state().values()])
        )
        return end(loop, loss)

    monkeypatch.setattr(Loop, "end_epoch", watched)
    adapter, most = "lora:r=2,lr=1.0", 6
    clf = fitted(backbone, adapter, "mle", hold_out=SHARE, refit=True, epochs=most)
    stop = clf.record.results["held_out"]["epochs"][0]
    assert stop < most
    rows = [(size, epoch) for size, epoch, _ in seen]
    assert [row for row in rows if row[0] == len(ROWS)] == [
        (len(ROWS), epoch) for epoch in range(1, stop + 1)
    ]
    refit = seen[-stop][2]
    seen.clear()
    fitted(backbone, adapter, "mle", epochs=most)
    assert all(torch.equal(*pair) for pair in zip(refit, seen[0][2], strict=True))
