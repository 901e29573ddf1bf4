"""iLoRA from fit to prediction: what a gate per example must not change, and what it reports."""

import numpy as np
import pytest
import torch
from refusal import refused
from tiny import QUICK_VBLL, toy_next_items, toy_questions, toy_rows
from usage import TEST, fitted, load, new, same

import bayeslora as bl
from bayeslora.contrib.ilora import CONTEXTS
from bayeslora.engine.calibrate import prepare_rows
from bayeslora.engine.data import columns_of


def nll(predictions):
    return bl.evaluate(predictions)["nll"].value


ROWS, HELD = toy_rows(24), toy_rows(12, seed=1)


@pytest.fixture(scope="module")
def trained(llama):
    """Return a classifier whose gate differs from text to text."""
    clf = new(llama, "ilora:r=4,num_experts=2,lr=0.05,gate_lr_factor=10", "mle")
    return clf.fit(ROWS, HELD, epochs=6, batch_size=4, patience=6)


def test_without_its_factors_features_are_the_backbones(llama, trained):
    """The gate sees these features, whatever was trained."""
    plain = fitted(llama, "lora:r=4", "mle")
    with torch.no_grad():
        for site in plain.network.sites:
            site.B.weight.zero_()
    rows = bl_rows(trained, TEST)
    expected = plain.network.encoder.features(prepare_rows(plain.network, rows))
    texts = prepare_rows(trained.network, rows)
    assert torch.equal(texts.columns[CONTEXTS], expected)
    assert not torch.equal(trained.network.encoder.features(texts), expected)


def test_the_gate_differs_from_text_to_text_and_not_with_the_batch(trained):
    results = trained.record.results
    assert results["adapter"]["gate_information"] > 0.02
    assert [entry["gate_largest"] for entry in results["history"]]
    whole = trained.predict(TEST)
    order = np.random.default_rng(0).permutation(len(TEST))
    permuted = trained.predict([TEST[row] for row in order])
    np.testing.assert_allclose(permuted.probs, whole.probs[order], atol=1e-6)
    alone = trained.predict([TEST[3]])
    np.testing.assert_allclose(alone.probs[0], whole.probs[3], atol=1e-6)


def test_an_export_is_refused_unless_the_gate_is_constant(trained, llama, tmp_path):
    for write in (trained.export_peft, trained.export_merged):
        with pytest.raises(bl.InputError):
            write(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    constant = fitted(llama, "ilora:r=4,num_experts=1", "mle")
    constant.export_peft(tmp_path / "constant")
    assert (tmp_path / "constant" / "adapter_config.json").is_file()


def bl_rows(clf, rows):
    from bayeslora.data.read import read

    return read(rows, columns_of(clf.record))


NEXT = toy_next_items(9, seed=2)


@pytest.fixture(scope="module")
def recommender(llama):
    """Return a model whose gate sees histories and whose last layer reads single candidates."""
    clf = new(llama, "ilora:r=4,num_experts=2,lr=0.05,gate_lr_factor=10", QUICK_VBLL)
    return clf.fit(toy_next_items(24), toy_next_items(12, seed=1), epochs=3, batch_size=8)


def test_the_next_item_is_chosen_under_a_gate_of_the_history(recommender, tmp_path):
    assert recommender.network.companion.sees_history
    predictions = recommender.predict(NEXT)
    np.testing.assert_allclose(predictions.probs.sum(1), 1, atol=1e-9)
    recommender.save_pretrained(tmp_path / "model")
    assert same(load(tmp_path / "model").predict(NEXT), predictions)
    with pytest.raises(bl.InputError) as caught:  # the gate prevents it, and PEFT has no gates
        recommender.export_merged(tmp_path / "merged")
    assert "peft" not in str(caught.value)
    scores = bl.evaluate(predictions, num_resamples=5)
    assert {"accuracy", "nll", "ece", "accuracy_at_50"} <= {*scores}


def test_another_history_opens_other_gates_for_the_same_question(recommender):
    """With a separate question, the text does not contain the history."""
    gate = recommender.network.companion
    questions = [{**row, "question": "What comes next?"} for row in NEXT[:2]]
    rows = bl_rows(recommender, questions)
    texts = prepare_rows(recommender.network, rows)
    p = gate.weights(texts.columns[CONTEXTS])
    assert not torch.equal(p[0], p[1])
    unknown = [{**row, "history": ["never seen"]} for row in questions]
    assert (
        not prepare_rows(recommender.network, bl_rows(recommender, unknown)).columns[CONTEXTS].any()
    )
    assert np.isfinite(recommender.predict(unknown).probs).all()


def test_rows_without_histories_are_refused_under_a_gate_of_histories(recommender):
    question = {"question": "Which item comes next?"}
    choices = [
        {**question, "choices": row["candidates"], "answer": row["answer"]} for row in NEXT[:2]
    ]
    with refused("input", "history"):
        recommender.predict(choices)


@pytest.mark.parametrize("backbone", ["llama", "bert"])
def test_the_text_of_a_question_opens_the_gate(request, backbone):
    """For a decoder, the part that its options share; for an encoder, the mean over its options."""
    clf = new(request.getfixturevalue(backbone), "ilora:r=4,num_experts=2", "mle")
    clf.fit(toy_questions(12), epochs=1, batch_size=6)
    rows = toy_questions(9, 2)
    texts = prepare_rows(clf.network, bl_rows(clf, rows))
    assert texts.columns[CONTEXTS].shape == (len(rows), 16)
    assert np.isfinite(clf.predict(rows).probs).all()
