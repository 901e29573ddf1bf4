"""`predict` writes pieces as it runs: interrupted anywhere, it ends in the same bytes."""

import os
import signal

import pytest
import refusal
import tiny
from cli_files import write_rows
from forked import Forked, bayeslora

from bayeslora.classifier import BayesianClassifier
from bayeslora.data import examples
from bayeslora.engine import load
from bayeslora.predictions.parts import PredictionParts

ROWS = 30


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(examples, "PIECE", 8)


@pytest.fixture
def data(tmp_path):
    rows = tiny.toy_rows(ROWS, seed=5)
    for place, row in enumerate(rows):
        row["label"] = None if place < 10 else "unheard of" if place == 20 else row["label"]
    return write_rows(tmp_path / "data.jsonl", rows)


def command(world, data, out, *more):
    words = [data, "--out", out, "--unknown-labels", "ood", "--keep", "text", "--quiet", *more]
    return ["predict", world.model, *words]


def stop_after(monkeypatch, count):
    """Interrupt the run, as by Ctrl-C, once `count` pieces are on disk."""
    add = PredictionParts.add

    def stopped(self, number, predictions):
        if self.num_finished() == count:
            raise KeyboardInterrupt
        add(self, number, predictions)

    monkeypatch.setattr(PredictionParts, "add", stopped)


@pytest.fixture(scope="module")
def clf(world):
    return BayesianClassifier.from_pretrained(world.model, progress=False)


def write(clf, data, out, **options):
    clf.predict_to_file(data, out, **{"unknown_labels": "ood", "keep": "text", **options})
    return out


def test_stopped_twice_it_ends_in_the_same_bytes(run, world, data, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole.parquet", tmp_path / "p.parquet"
    printed = run(*command(world, data, whole)).out
    for count in (1, 3):
        with monkeypatch.context() as patch:
            stop_after(patch, count)
            stopped = run(*command(world, data, out))
        assert stopped.code == 130
        assert not out.exists()
    made = []
    add = PredictionParts.add
    monkeypatch.setattr(PredictionParts, "add", lambda *args: (made.append(args[1]), add(*args)))
    resumed = run(*command(world, data, out))
    assert (resumed.code, made) == (0, [3])
    assert resumed.out == printed.replace("whole", "p")
    assert out.read_bytes() == whole.read_bytes()
    assert not PredictionParts(out).folder.exists()


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_python_and_files_agree_in_every_byte(clf, data, tmp_path, monkeypatch, suffix):
    out = tmp_path / f"p{suffix}"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            write(clf, data, out)
    write(clf, data, out)
    clf.predict(data, unknown_labels="ood", keep="text").save(tmp_path / f"q{suffix}")
    assert (tmp_path / f"q{suffix}").read_bytes() == out.read_bytes()


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 1}, "seed"), ({"num_samples": 3}, "num_samples"), ({"keep": ()}, "data")],
)
def test_other_predictions_do_not_go_on(clf, data, tmp_path, monkeypatch, change, named):
    out = tmp_path / "p.parquet"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            write(clf, data, out)
    with refusal.refused("input", named):
        write(clf, data, out, **change)
    write(clf, data, out, overwrite=True, **change)
    whole = write(clf, data, tmp_path / "whole.parquet", **change)
    assert out.read_bytes() == whole.read_bytes()


def test_other_options_are_refused_before_the_model_is_loaded(
    refused, world, clf, data, tmp_path, monkeypatch
):
    out = tmp_path / "p.parquet"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            write(clf, data, out)
    monkeypatch.setattr(load, "saved_model", None)
    assert "another seed" in refused(*command(world, data, out), "--seed", 4)


def test_another_model_does_not_go_on(run, refused, world, clf, data, tmp_path, monkeypatch):
    out = tmp_path / "p.parquet"
    other = tmp_path / "other"
    run("calibrate", world.model, world.train, "--posterior", "mle", "--out", other)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            write(clf, data, out)
    words = command(world, data, out)
    words[1] = other
    assert "another model" in refused(*words)


def test_a_repeated_id_is_found_before_the_model_is_loaded(refused, world, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "saved_model", None)
    rows = tiny.toy_rows(ROWS)
    rows[-1]["id"] = rows[0]["id"]
    data = write_rows(tmp_path / "data.jsonl", rows)
    assert "row 30" in refused("predict", world.model, data, "--out", tmp_path / "p.parquet")


def dies_after_two_pieces(*words):
    examples.PIECE = 8
    add = PredictionParts.add

    def last(self, number, predictions):
        add(self, number, predictions)
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    PredictionParts.add = last
    bayeslora(*words)


def test_killed_without_warning(world, clf, data, tmp_path):
    """The process dies between two pieces, as in a power cut, without any clean-up."""
    out = tmp_path / "p.parquet"
    dying = Forked(dies_after_two_pieces, *map(str, command(world, data, out)))
    assert dying.wait() == -signal.SIGKILL
    assert PredictionParts(out).missing(4) == [2, 3]
    write(clf, data, out)
    assert out.read_bytes() == write(clf, data, tmp_path / "whole.parquet").read_bytes()
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {"data.jsonl", "p.parquet", "whole.parquet"}
