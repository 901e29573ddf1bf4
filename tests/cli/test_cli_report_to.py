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


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_other_trackers_get_the_same_figures(run, world, tmp_path, monkeypatch, name):
    """Through accelerate's interface: their packages need not be installed."""
    calls = []

    class Tracker:
        def __init__(self, project, **names):
            calls.append(("init", project, names))

        def start(self):
            calls.append(("start",))

        def store_init_configuration(self, values):
            calls.append(("options", values))

        def log(self, values, step):
            calls.append(("log", values, step))

        def finish(self):
            calls.append(("finish",))

    from accelerate import tracking

    kinds = {"wandb": "WandBTracker", "mlflow": "MLflowTracker"}
    monkeypatch.setattr(tracking, kinds[name], Tracker)
    monkeypatch.setattr("bayeslora.engine.progress.find_spec", lambda _: True)
    out = tmp_path / "my-model"
    words = ["fit", world.train, "--backbone", world.bert, "--posterior", "mle", "--cv", 0]
    words += ["--epochs", 2, "--quiet", "--out", out, "--report-to", name]
    assert run(*words).code == 0
    history = json.loads((out / "bayeslora.json").read_text())["results"]["history"]
    (_, project, names), start, (_, options), *logged, finish = calls
    assert (project, [*names.values()]) == ("my-model", ["member-0"])
    assert (start, finish) == (("start",), ("finish",))
    assert options["posterior"] == "mle"
    assert options["epochs"] == 2
    assert [figures for _, figures, _ in logged] == history
    (_, _, first), (_, _, last) = logged
    assert last == 2 * first


def test_a_tracker_is_one_of_those_known_and_installed(refused, world, tmp_path):
    words = ["fit", world.train, "--backbone", world.bert, "--out", tmp_path / "m", "--report-to"]
    assert "tensorboard" in refused(*words, "abacus")
    assert "mlflow" in refused(*words, "mlflow")
    assert not (tmp_path / "m").exists()
