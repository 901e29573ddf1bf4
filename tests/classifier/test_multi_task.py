"""Several tasks in one classifier: rows are classified among the classes of their task."""

import numpy as np
import pytest
from tiny import WHOLE_AND_RAW, toy_rows

import bayeslora as bl
from bayeslora.classifier import BayesianClassifier
from bayeslora.errors import InputError

LORA = "lora:r=2,num_layers=2"


def binary(n, seed=0):
    """Return rows of a second task over the same words: about animals, or not."""
    return [
        {**row, "label": "yes" if row["label"] == "animals" else "no"} for row in toy_rows(n, seed)
    ]


TRAIN = {"topic": toy_rows(30), "animal": binary(20, 7)}
HELD = {"topic": toy_rows(18, 1), "animal": binary(12, 8)}
TEST = {"topic": toy_rows(9, 5), "animal": binary(6, 6)}
CLASSES = ("topic: animals", "topic: food", "topic: weather", "animal: no", "animal: yes")


def fresh(llama, posterior="mle", adapter=LORA, **options):
    return BayesianClassifier(
        llama,
        adapter,
        posterior,
        dtype="float32",
        max_length=32,
        progress=False,
        **WHOLE_AND_RAW,
        **options,
    )


def fitted(llama, posterior="mle", adapter=LORA, validation=HELD, **options):
    options = {"epochs": 2, "batch_size": 8} | options
    return fresh(llama, posterior, adapter).fit(TRAIN, validation, **options)


POSTERIORS = [
    *("mle", "map", "vbll:prior_scale=2", "laplace:num_samples=20"),
    *("temperature", "gvbll", "nuts:num_chains=2,num_warmup=8,num_samples=4"),
    *("ensemble:num_members=2", "swag:num_samples=2", "blob:num_samples=2", "ivon:num_samples=2"),
    *("laplace_lora:prior_precision=1", "tfb:num_samples=2", "prototypes"),
]


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_rows_are_classified_among_the_classes_of_their_task(llama, tmp_path, posterior):
    clf = fitted(llama, posterior, out=tmp_path / "model")
    assert clf.classes == CLASSES
    predictions = clf.predict(TEST)
    assert predictions.columns["task"].tolist() == ["topic"] * 9 + ["animal"] * 6
    own = np.array([[True] * 3 + [False] * 2] * 9 + [[False] * 3 + [True] * 2] * 6)
    assert np.array_equal(predictions.available, own)
    assert (predictions.probs[~own] == 0).all()
    assert (predictions.probs[own] > 0).all()
    np.testing.assert_allclose(predictions.probs.sum(1), 1, atol=1e-12)
    assert [predictions.classes[label] for label in predictions.labels[-2:]] == [
        "animal: no",
        "animal: no",
    ]
    assert (predictions.total[9:] <= np.log(2) + 1e-9).all()
    again = BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    assert np.array_equal(again.predict(TEST).probs, predictions.probs)
    assert again.record.tasks == {"topic": 3, "animal": 2}


def test_without_an_adapter_each_task_has_the_last_layer_that_it_would_have_alone(llama):
    """The features are the same, so tasks share only their scale."""
    both = fresh(llama, "map", "none").fit(TRAIN)
    single = fresh(llama, "map", "none").fit(TRAIN["topic"])
    predictions, expected = both.predict({"topic": TEST["topic"]}), single.predict(TEST["topic"])
    scale = float(both.network.feature_scale / single.network.feature_scale)
    assert abs(scale - 1) < 0.05
    np.testing.assert_allclose(predictions.probs[:, :3], expected.probs, atol=0.02)


def test_the_order_of_rows_and_tasks_does_not_matter(llama):
    clf = fitted(llama, "laplace:num_samples=20")
    predictions = clf.predict(TEST)
    turned = clf.predict({"animal": TEST["animal"], "topic": TEST["topic"]})
    np.testing.assert_allclose(turned.probs[6:], predictions.probs[:9], atol=1e-6)
    mixed = [{**row, "task": task} for task, rows in TEST.items() for row in rows]
    mixed = mixed[::2] + mixed[1::2]
    names = [f"{row['task']}/{row['id']}" for row in mixed]
    rows = clf.predict([{**row, "id": name} for row, name in zip(mixed, names, strict=True)])
    places = [predictions.ids.index(name) for name in names]
    np.testing.assert_allclose(rows.probs, predictions.probs[places], atol=1e-6)
    for name, values in rows.scores.items():
        np.testing.assert_allclose(
            values, predictions.scores[name][places], atol=1e-4, err_msg=name
        )
    assert np.array_equal(rows.labels, predictions.labels[places])


def test_scores_are_those_of_each_task(llama):
    clf = fitted(llama, "vbll:prior_scale=2")
    results = clf.record.results
    predictions = clf.predict(HELD)
    nll = -np.log(predictions.probs[np.arange(30), predictions.labels])
    assert results["validation_nll"] == pytest.approx(nll.mean(), abs=1e-6)
    by_task = results["validation_tasks"]
    assert by_task["topic"]["nll"] == pytest.approx(nll[:18].mean(), abs=1e-6)
    assert by_task["animal"]["num_rows"] == 12
    scores = bl.evaluate(clf.predict(TEST), group_by=["task"], num_resamples=20)
    assert scores["accuracy"].value >= 0


def test_new_classes_are_those_of_one_task(llama, tmp_path):
    few = fitted(llama, "map").adapt(toy_rows(6), posterior="prototypes")
    few.save_pretrained(tmp_path / "few")
    again = BayesianClassifier.from_pretrained(tmp_path / "few", progress=False)
    predictions = again.predict(toy_rows(3, 1))
    assert predictions.classes == ("animals", "food", "weather")
    assert predictions.available is None


@pytest.mark.parametrize(
    ("train", "validation", "name"),
    [
        (TRAIN, {"colour": toy_rows(9, 1)}, "colour"),
        (TRAIN, toy_rows(9, 1), "validation"),
        (toy_rows(9), HELD, "validation"),
        ({"a": toy_rows(9), "b": [{**r, "label": "x"} for r in toy_rows(9)]}, None, "'x'"),
        (TRAIN, {"topic": binary(9, 1)}, "'yes'"),
    ],
)
def test_bad_tasks_are_refused_before_a_model_is_loaded(train, validation, name):
    clf = BayesianClassifier("/nowhere/at/all", LORA, "mle", progress=False)
    with pytest.raises(InputError) as caught:
        clf.fit(train, validation, epochs=1)
    assert name in str(caught.value)


def test_a_task_has_to_be_named_and_known_in_prediction(llama):
    clf = fitted(llama)
    for data, name in (
        (toy_rows(3), "task"),
        ({"colour": toy_rows(3)}, "colour"),
        ([{**row, "task": "colour"} for row in toy_rows(3)], "colour"),
        ({"topic": binary(3)}, "'topic: "),
    ):
        with pytest.raises(InputError) as caught:
            clf.predict(data)
        assert name in str(caught.value)
    outside = clf.predict({"topic": binary(3)}, unknown_labels="ood")
    assert outside.labels is None
