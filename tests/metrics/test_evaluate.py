"""The one call: what it holds, its laws, and what it refuses."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused

from bayeslora.metrics.chance import CHANCE_KEYS
from bayeslora.metrics.evaluate import REFLECTED, SCORE_KEYS, evaluate
from bayeslora.metrics.scores import Scores
from bayeslora.predictions.record import Predictions

CLOSE = 1e-12  # sums of at most some hundred numbers below 10


def calibrated(rows=300, classes=4, seed=0, **parts) -> Predictions:
    """Labels drawn from the probabilities themselves."""
    generator = np.random.default_rng(seed)
    probs = generator.dirichlet(np.full(classes, 0.5), size=rows)
    labels = (probs.cumsum(1) > generator.random((rows, 1))).argmax(1)
    return Predictions(probs, tuple("abcdefgh"[:classes]), labels, name="m", **parts)


def values(scores: Scores) -> list[float]:
    return [scores[key].value for key in SCORE_KEYS]


def quick(predictions, ood=None, **options) -> Scores:
    return evaluate(predictions, ood=ood, **{"num_resamples": 20, **options})


def test_all_keys_are_there_and_every_interval_holds_its_value():
    scores = evaluate(calibrated(), num_resamples=200)
    assert tuple(scores) == SCORE_KEYS
    for key, score in scores.items():
        assert score.low <= score.value <= score.high
        assert score.low < score.high
        assert key in REFLECTED or score.low < score.value < score.high
    assert set(scores.chance_p) == set(CHANCE_KEYS)
    assert scores.calibration_p == scores.chance_p["ece"]
    assert scores["overconfidence"].value == pytest.approx(
        scores["mean_confidence"].value - scores["accuracy"].value, abs=CLOSE
    )
    assert len(scores.bins) == scores.num_bins == 15
    assert sum(bin_.count for bin_ in scores.bins) == scores.n == scores.n_labelled == 300


def test_three_rows_by_hand():
    scores = quick(Predictions([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1]], ("a", "b"), [0, 0, 0]))
    assert scores["accuracy"].value == pytest.approx(2 / 3)
    assert scores["nll"].value == pytest.approx(-np.log([0.8, 0.4, 0.9]).mean())
    assert scores["brier"].value == pytest.approx((2 * 0.2**2 + 2 * 0.6**2 + 2 * 0.1**2) / 3)
    # bins of a fifteenth hold .6, .8 and .9 apart
    assert scores["ece"].value == pytest.approx((0.6 + 0.2 + 0.1) / 3)
    assert scores["mce"].value == pytest.approx(0.6)
    assert scores["aurc"].value == pytest.approx((0 + 0 + 1 / 3) / 3)
    assert scores["mean_confidence"].value == pytest.approx((0.8 + 0.6 + 0.9) / 3)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(4)))
def test_renaming_classes_changes_no_score(to):
    predictions = calibrated(60)
    renamed = predictions.replace(
        probs=predictions.probs[:, np.argsort(to)], labels=np.array(to)[predictions.labels]
    )
    np.testing.assert_allclose(values(quick(renamed)), values(quick(predictions)), atol=CLOSE)


@pytest.mark.parametrize(("label", "accuracy"), [(0, 1.0), (1, 0.0)])
def test_sure_of_everything(label, accuracy):
    scores = quick(Predictions([[1.0, 0.0]] * 5, ("a", "b"), [label] * 5))
    wrong = 1 - accuracy
    errors = ("ece", "aece", "cwece", "mce", "aurc")
    expected = {
        **dict.fromkeys(SCORE_KEYS, 0.0),
        **dict.fromkeys(errors, wrong),
        **{key: accuracy for key in SCORE_KEYS if key.startswith("accuracy")},
        **dict.fromkeys(("f1", "balanced_accuracy"), accuracy),
        "nll": -np.log(1e-12) * wrong,
        "brier": 2 * wrong,
        "brier_reliability": 2 * wrong,
        "mean_confidence": 1.0,
        "overconfidence": wrong,
        "sharpness": 1.0,
    }
    assert {key: score.value for key, score in scores.items()} == pytest.approx(expected, abs=CLOSE)
    assert scores.nll_clamped == 5 * wrong
    assert {key for key, score in scores.items() if score.has_interval} == {
        key for key in SCORE_KEYS if key.startswith("accuracy")
    }


def test_only_the_confidence_is_scored_without_labels():
    scores = quick(calibrated().replace(labels=None))
    assert tuple(scores) == ("mean_confidence", "sharpness")
    assert scores["mean_confidence"].value == pytest.approx(calibrated().confidence.mean())
    assert (scores.n, scores.n_labelled, scores.bins) == (300, 0, ())
    assert scores.ece_if_calibrated is scores.calibration_p is None


def test_rows_without_a_label_are_not_scored_but_count_for_ood():
    whole = calibrated(40)
    some = np.where(np.arange(40) < 30, whole.labels, -1)
    scores = quick(whole.replace(labels=some), {"far": calibrated(9, seed=1)})
    assert values(scores) == values(quick(whole.take(np.arange(30))))
    assert (scores.n, scores.n_labelled) == (40, 30)
    assert (scores.ood["far"].n_in, scores.ood["far"].n_out) == (40, 9)


def test_ood_sets_are_scored_by_every_shared_uncertainty():
    inside = calibrated(30, epistemic=np.linspace(0, 1, 30), scores={"mine": np.ones(30)})
    outside = calibrated(20, epistemic=np.linspace(2, 3, 20), total=np.ones(20))
    scores = evaluate(inside, ood={"far": outside, "near": inside}, num_resamples=50)
    far = scores.ood["far"]
    assert (far.score, far.n_in, far.n_out) == ("epistemic", 30, 20)
    assert [far.auroc.value, far.aupr.value, far.fpr95.value] == [1.0, 1.0, 0.0]
    assert list(far.by_score) == ["max_probability", "entropy", "epistemic"]
    near = scores.ood["near"]
    assert near.auroc.value == 0.5
    assert near.auroc.low < 0.5 < near.auroc.high
    entropy = quick(inside, {"far": outside}, ood_score="entropy").ood["far"]
    assert entropy.score == "entropy"
    assert entropy.auroc.value == far.by_score["entropy"]["auroc"].value


def test_a_point_estimate_has_no_epistemic_uncertainty_to_detect_by():
    flat = calibrated(10, epistemic=np.zeros(10))
    assert quick(flat, {"far": flat}).ood["far"].score == "max_probability"
    assert quick(calibrated(10), {"far": flat}).ood["far"].score == "max_probability"


def test_a_score_that_one_set_lacks_is_refused():
    with refused("input", "'far'", "'epistemic'", "'entropy'"):
        quick(calibrated(), {"far": calibrated(epistemic=np.ones(300))}, ood_score="epistemic")
    with refused("unknown", "'nope'", "'entropy'"):
        quick(calibrated(), ood_score="nope")


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"num_bins": 0}, ("option", "num_bins", "0")),
        ({"num_bins": 10_001}, ("option", "num_bins", "10,000", "10001")),
        ({"num_bins": 10.0}, ("option", "num_bins", "10.0")),
        ({"num_bins": True}, ("option", "num_bins", "True")),
        ({"seed": 1.0}, ("option", "seed", "4,294,967,295", "1.0")),
        ({"group_by": "source"}, ("input", "'source'")),
        ({"num_resamples": 0}, ("option", "num_resamples", "0")),
    ],
)
def test_wrong_options_are_refused(options, refusal):
    with refused(*refusal):
        quick(calibrated(), **options)


def test_files_are_read_and_named(tmp_path):
    calibrated().save(tmp_path / "p.parquet")
    scores = quick(tmp_path / "p.parquet", {"far": str(tmp_path / "p.parquet")})
    assert scores.file == str(tmp_path / "p.parquet")
    assert scores.scores == quick(calibrated()).scores
    assert scores.ood["far"].n_out == 300


def test_json_has_the_promised_keys():
    columns = {"source": ["x", "y"] * 150}
    predictions = calibrated(
        columns=columns, total=np.ones(300), sets=np.ones((300, 4), dtype=bool)
    )
    scores = quick(predictions, {"far": calibrated(20, seed=1)}, group_by="source", by_class=True)
    content = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    head = {"name", "file", "n", "num_classes", "num_bins", "scores", "bins", "ood"}
    assert head <= content.keys()
    assert set(content["scores"]["ece"]) == {"value", "low", "high"}
    assert {"low", "high", "count", "confidence", "accuracy"} <= content["bins"][0].keys()
    assert {"accuracy_low", "accuracy_high"} <= content["bins"][0].keys()
    assert {"n_in", "n_out", "score", "auroc", "aupr", "fpr95"} <= content["ood"]["far"].keys()
