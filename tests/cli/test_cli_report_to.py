"""`fit --report-to tensorboard` writes what the record holds."""

import json

import pytest
import tiny


def scalars(folder):
    """Return the scalars of a TensorBoard run: (step, value) by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(item.step, item.value) for item in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_gets_the_figures_of_each_epoch(run, world, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    words = ["fit", world.train, "--validation", world.valid, "--backbone", world.bert]
    words += ["--epochs", 2, *tiny.QUICK_VBLL_ARGS, "--quiet", "--out", "my-model"]
    assert run(*words, "--report-to", "tensorboard").code == 0
    history = json.loads((tmp_path / "my-model" / "bayeslora.json").read_text())["results"][
        "history"
    ]
    reported = scalars(tmp_path / "runs" / "my-model" / "member-0")
    assert reported.keys() == history[0].keys()
    for name, values in reported.items():
        assert [value for _, value in values] == pytest.approx([row[name] for row in history])
    (first, _), (last, _) = reported["loss"]
    assert last == 2 * first


def test_a_tracker_is_one_of_those_known_and_installed(refused, world, tmp_path):
    words = ["fit", world.train, "--backbone", world.bert, "--out", tmp_path / "m", "--report-to"]
    assert "tensorboard" in refused(*words, "abacus")
    assert "mlflow" in refused(*words, "mlflow")
    assert not (tmp_path / "m").exists()
