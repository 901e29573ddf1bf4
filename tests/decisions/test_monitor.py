"""monitor: fair bets, drift against the reference, and a state that survives failures."""

import itertools
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from refusal import refused
from scipy.stats import hypergeom

from bayeslora.cli import main
from bayeslora.decisions.artefact import Calibration, Reference, load_calibration
from bayeslora.decisions.monitor import (
    BETS,
    BEYOND,
    CLASSES,
    CONFIDENCE,
    LABELS,
    State,
    drift_tests,
    load_state,
    monitor,
    wagers,
)
from bayeslora.predictions.record import Predictions
from bayeslora.recalibration.recalibrate import build
from bayeslora.reporting.monitor import verdict

NAMES = ("a", "b", "c")


def drawn(rows, seed, *, lower=0.0, labels=True, ids=None, **parts):
    """Return rows of calibrated predictions, whose accuracy is lower than stated by a share."""
    generator = np.random.default_rng(seed)
    probs = generator.dirichlet(np.ones(3), rows)
    truth = (probs.cumsum(1) > generator.random((rows, 1))).argmax(1)
    wrong = (probs.argmax(1) + generator.integers(1, 3, rows)) % 3
    answers = np.where(generator.random(rows) * probs.max(1) < lower, wrong, truth)
    parts = {"scores": {"far": generator.random(rows)}} | parts
    names = tuple(f"{ids or seed}-{row}" for row in range(rows))
    return Predictions(probs, NAMES, answers if labels else None, ids=names, **parts)


@pytest.fixture(scope="module")
def calibration():
    rows = drawn(1000, 0)
    return Calibration.on(rows).then(build("temperature").fit(rows), rows)


@pytest.fixture
def run(calibration, tmp_path, capsys):
    """Monitor predictions from the command line; return its exit code and the JSON."""
    calibration.save(tmp_path / "calibration.json")

    def command(predictions, *options, name="batch.parquet"):
        if predictions is not None:
            predictions.save(tmp_path / name)
        files = [tmp_path / "calibration.json", tmp_path / name, "--state", tmp_path / "state.json"]
        code = main([str(item) for item in ("monitor", *files, *options, "--json")])
        out = capsys.readouterr().out
        return code, json.loads(out) if out else None

    return command


@pytest.fixture(scope="module")
def outcomes():
    """Return for every outcome of 10 rows its probability and the path of the wealth."""
    generator, rows = np.random.default_rng(1), 10
    confidence = generator.uniform(0.4, 0.99, rows)
    predicted = generator.integers(3, size=rows)
    start = np.zeros((4, len(BETS)))
    right = np.array([*itertools.product((0, 1), repeat=rows)])
    return (
        np.where(right, confidence, 1 - confidence).prod(1),
        np.exp([wagers(start, y - confidence, predicted)[1] for y in right]),
    )


def test_the_wealth_is_1_on_average_after_every_row(outcomes):
    chances, paths = outcomes
    np.testing.assert_allclose(chances @ paths, 1, rtol=1e-12)


def test_the_wealth_rarely_reaches_the_inverse_of_the_level(outcomes):
    chances, paths = outcomes
    for level in (0.9, 0.5, 0.2):
        assert 0 < chances[paths.max(1) >= 1 / level].sum() <= level


def test_the_wealth_is_that_of_its_definition():
    excess, predicted = np.array([0.1, -0.7, 0.3, -0.4]), np.array([0, 2, 0, 2])
    log_wealth, total = wagers(np.zeros((4, len(BETS))), excess, predicted)
    expected = [
        np.prod([1 + BETS * x for x, c in zip(excess, predicted, strict=True) if c in part], axis=0)
        for part in ((0, 1, 2), (0,), (), (2,))
    ]
    np.testing.assert_allclose(np.exp(log_wealth[[0, 1, 3]]), [expected[i] for i in (0, 1, 3)])
    np.testing.assert_array_equal(log_wealth[2], 0)
    means = [float(np.mean(item)) if np.ndim(item) else 1.0 for item in expected]
    assert np.exp(total[-1]) == pytest.approx((means[0] + np.mean(means[1:])) / 2, rel=1e-12)


def test_batches_are_worth_as_much_as_all_rows_at_once(calibration, tmp_path):
    rows = drawn(300, 1, lower=0.05)
    whole = monitor(calibration, rows)
    state = State.start(calibration)
    for part in (slice(0, 1), slice(1, 120), slice(120, 300)):
        state = monitor(calibration, rows[part], state)
        state.save(tmp_path / "state.json")
        assert load_state(tmp_path / "state.json").to_json() == json.loads(
            (tmp_path / "state.json").read_text()
        )
        state = load_state(tmp_path / "state.json")
    assert (state.log_wealth, state.counts) == (whole.log_wealth, whole.counts)
    assert state.highest == whole.highest
    assert state.batches[-1].log_wealth == whole.batches[-1].log_wealth


def test_too_low_an_accuracy_of_one_class_is_an_alarm(calibration):
    rows = drawn(3000, 2, scores={"far": np.zeros(3000)})
    labels = np.where((rows.prediction == 1) & (np.arange(3000) % 3 == 0), 2, rows.labels)
    state = monitor(calibration, rows.replace(labels=labels))
    assert state.alarm
    assert LABELS in state.batches[0].alarms
    evidence = np.array(state.log_wealth).max(1)
    assert evidence[1:].argmax() == 1


def test_the_interval_of_the_expected_accuracy_holds_that_of_calibrated_rows(calibration):
    batches = [monitor(calibration, drawn(400, seed)).batches[0] for seed in range(10, 60)]
    inside = [batch.low <= batch.accuracy <= batch.high for batch in batches]
    assert np.mean(inside) >= 0.86


def test_the_share_beyond_a_quantile_is_tested_exactly():
    """Every order of 5 rows of the reference and 4 new ones is as likely, whatever the limit."""
    p = []
    for new in itertools.combinations(range(9), 4):
        old = [place for place in range(9) if place not in new]
        limit = old[2]
        count = sum(place > limit for place in new)
        reference = Reference([], [5], [5], {"far": (limit, 2)})
        rows = Predictions(np.ones((4, 2)) / 2, ("a", "b"), scores={"far": np.array(new)})
        tests = drift_tests(replace(reference, predicted=[5, 0]), rows)
        p.append(min(1, tests[BEYOND + "far"] / 3))
        assert tests[CONFIDENCE] == tests[CLASSES] == 1
        assert p[-1] == pytest.approx(min(1, 3 * hypergeom.sf(count - 1, 9, 4, count + 2)) / 3)
    for level in set(p) - {1 / 3}:
        assert np.mean(np.array(p) <= level + 1e-12) <= level + 1e-12


@pytest.mark.parametrize(
    ("changes", "test"),
    [
        ({"probs": np.tile([0.98, 0.01, 0.01], (500, 1))}, CONFIDENCE),
        ({"probs": np.roll(np.sort(drawn(500, 3).probs), 1, axis=1)}, CLASSES),
        ({"scores": {"far": np.full(500, 0.99)}}, f"{BEYOND}far"),
    ],
)
def test_drift_needs_no_labels(run, changes, test):
    code, content = run(drawn(500, 3, labels=False).replace(**changes))
    assert code == 3
    assert test in content["batch"]["alarms"]
    assert content["batch"]["accuracy"] is None


def test_the_levels_of_all_batches_add_up(calibration):
    state = State.start(calibration, 0.9)
    for seed in range(4):
        state = monitor(calibration, drawn(30, 10 + seed, labels=False), state)
    levels = [batch.drift_level for batch in state.batches]
    np.testing.assert_allclose(levels, [0.1 / (2 * k * (k + 1)) for k in range(1, 5)])


def test_an_alarm_stays(run):
    code, content = run(drawn(400, 4))
    assert (code, content["alarm"]) == (0, False)
    code, content = run(drawn(400, 5, lower=0.3))
    assert (code, content["batch"]["alarms"]) == (3, [LABELS])
    code, content = run(drawn(400, 6))
    assert (code, content["alarm"], content["batch"]["alarms"]) == (3, True, [])


def test_a_batch_counts_once_but_its_labels_may_come_later(run, calibration, tmp_path):
    assert run(drawn(200, 4, labels=False))[0] == 0
    assert run(drawn(200, 4, labels=False))[0] == 2
    code, content = run(drawn(200, 4))
    assert (code, content["counts"][0], content["batch"]["drift"]) == (0, 200, {})
    assert "after 200 rows" in verdict(load_state(tmp_path / "state.json"))
    assert run(drawn(200, 4)[::-1])[0] == 2
    with refused("exists"):
        monitor(calibration, tmp_path / "batch.parquet", load_state(tmp_path / "state.json"))


def test_a_failure_leaves_the_state_and_the_batch_can_be_repeated(run, tmp_path, monkeypatch):
    run(drawn(200, 4))
    before = (tmp_path / "state.json").read_bytes()
    drawn(200, 5).save(tmp_path / "batch.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", _fail)
        assert run(None)[0] == 1
    assert (tmp_path / "state.json").read_bytes() == before
    assert run(None)[0] == 0
    assert len(load_state(tmp_path / "state.json").batches) == 2


def _fail(*_):
    raise OSError("no")


def test_the_page_has_a_row_per_batch_and_escapes_names(run, tmp_path):
    page = tmp_path / "page.html"
    run(drawn(100, 4), "--html", page, name="<b>&.parquet")
    assert run(drawn(100, 5), "--html", page)[0] == 2
    run(drawn(100, 5), "--html", page, "--overwrite")
    text = page.read_text(encoding="utf-8")
    assert text.count("<tr>") == 3
    assert "&lt;b&gt;&amp;.parquet" in text
    assert "<b>" not in text
    assert "http:" not in text
    assert "https:" not in text


def test_options_that_do_not_fit(run, tmp_path):
    assert run(drawn(100, 4), "--confidence", "2")[0] == 2
    assert run(drawn(100, 4), "--html", tmp_path / "page.txt")[0] == 2
    assert not (tmp_path / "state.json").exists()
    assert run(drawn(100, 4), "--confidence", "0.9")[1]["confidence"] == 0.9
    assert run(drawn(100, 5), "--confidence", "0.99")[0] == 2
    assert run(drawn(100, 5))[1]["confidence"] == 0.9


def test_rows_and_states_that_do_not_fit(calibration, run, tmp_path):
    with refused("input"):
        monitor(calibration, drawn(1000, 0))
    with refused("another-model"):
        monitor(calibration, drawn(10, 1).replace(classes=("x", "y", "z")))
    with refused("unknown", "far"):
        monitor(calibration, drawn(10, 1).replace(scores={}))
    with refused("input"):
        State.start(Calibration(NAMES))
    others = drawn(500, 9)
    other = Calibration.on(others).then(build("temperature").fit(others), others)
    run(drawn(100, 4))
    with refused("another-model"):
        monitor(other, drawn(10, 1), load_state(tmp_path / "state.json"))


def test_a_saved_calibration_is_the_same(calibration, tmp_path):
    calibration.save(tmp_path / "calibration.json")
    state = monitor(calibration, drawn(50, 4))
    assert (
        len(monitor(load_calibration(tmp_path / "calibration.json"), drawn(50, 5), state).batches)
        == 2
    )


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"counts": [1]},
        {"log_wealth": [[0.0]]},
        {"log_wealth": "x"},
        {"batches": [{"name": "x"}]},
        {"surplus": 1},
        {"confidence": 5},
        {"highest": None},
        {"highest": float("nan")},
    ],
)
def test_damaged_states(run, tmp_path, change):
    run(drawn(100, 4))
    path = tmp_path / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with refused("damaged", "state.json"):
        load_state(path)
    path.write_text("[]")
    assert run(drawn(100, 5))[0] == 2
