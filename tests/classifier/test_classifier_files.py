"""Saving, loading, resuming, and errors for damaged models."""

import json
from dataclasses import replace

import pytest
import torch
from refusal import refused
from safetensors.torch import load_file, save_file
from tiny import QUICK_VBLL, tiny_llama, toy_rows, without_hashes
from usage import TEST, fitted, load, new, same

import bayeslora as bl
from bayeslora.backbones.load import load_backbone
from bayeslora.engine.loop import Loop

COMBINATIONS = [
    ("lora:r=2", "mc_dropout"),
    ("lora:r=2", "ensemble:num_members=2"),
    ("polar:r=2", "swag:num_samples=2"),
    ("polar:r=4", "vbll"),
    ("polar:r=4", f"{QUICK_VBLL},covariance=eigenbasis,link=probit"),
    ("polar:r=4", "laplace:structure=full,link=bridge"),
]


@pytest.mark.parametrize(("adapter", "posterior"), COMBINATIONS)
def test_save_and_load_change_no_bit(llama, tmp_path, adapter, posterior):
    clf = fitted(llama, adapter, posterior)
    clf.save_pretrained(tmp_path / "model")
    again = bl.BayesianClassifier.from_pretrained(tmp_path / "model", device="cpu", progress=False)
    assert again.record == clf.record
    # The options leave the rate, the layers and VBLL's covariance open, and MC dropout's p is
    # LoRA's dropout; the saved model states their values.
    settled = {
        name: clf.record.adapter[name]
        for name in ("lr", "num_layers")
        if name in clf.record.adapter
    }
    if posterior == "mc_dropout":
        settled["dropout"] = clf.posterior.p
    expected = clf.posterior
    if posterior == "vbll":
        expected = replace(expected, covariance="dense")
    assert (again.adapter, again.posterior) == (replace(clf.adapter, **settled), expected)
    drawn = [{"num_samples": 7, "seed": 3}] if clf.posterior.num_samples is not None else []
    for options in ({}, {"num_samples": 0}, *drawn):
        assert same(clf.predict(TEST, **options), again.predict(TEST, **options))
    # A second round writes the same tensors.
    again.save_pretrained(tmp_path / "copy")
    for name in ("adapter.safetensors", "posterior.safetensors"):
        assert (tmp_path / "model" / name).read_bytes() == (tmp_path / "copy" / name).read_bytes()


@pytest.mark.parametrize(
    ("adapter", "posterior"),
    [
        ("polar:r=4", "vbll"),
        ("polar:r=4", "laplace:link=probit"),
        ("lora:r=2", "ensemble:num_members=2"),
        ("lora:r=2", "tfb:num_samples=2"),
        ("lora:r=2", "swag:num_samples=2"),
    ],
)
def test_what_a_fit_reports_is_what_the_saved_model_has(llama, tmp_path, adapter, posterior):
    """The prior is chosen after the last epoch, so scores of an epoch belong to another model."""
    validation = toy_rows(12, seed=1)
    fitted(llama, adapter, posterior).save_pretrained(tmp_path / "model")
    again = load(tmp_path / "model")
    scores = bl.evaluate(again.predict(validation))
    results = again.record.results
    assert results["validation_nll"] == pytest.approx(scores["nll"].value, abs=1e-6)
    assert results["validation_accuracy"] == pytest.approx(scores["accuracy"].value, abs=1e-12)
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"NLL {scores['nll'].value:.3f} nats, accuracy {scores['accuracy'].value:.3f}." in card


def test_another_backbone_is_refused(model, folder):
    other = tiny_llama(folder / "other", seed=1)
    with refused("another-backbone") as caught:
        load(model, backbone=str(other))
    fingerprint = load_backbone(str(other), device="cpu").fingerprint
    assert (
        f"fingerprint {fingerprint}, expected {load(model).record.backbone['fingerprint']}"
        in str(caught.value)
    )


def test_a_backbone_that_has_moved_can_be_named(model, shared, folder):
    moved = tiny_llama(folder / "moved")
    record = json.loads((model / "bayeslora.json").read_text())
    record["backbone"]["name"] = str(folder / "gone")
    (model / "bayeslora.json").write_text(json.dumps(record))
    without_hashes(model)
    with refused("input", "gone"):
        load(model)
    for place in (str(moved), moved):
        assert same(load(model, backbone=place).predict(TEST), shared.predict(TEST))


def test_only_models_are_replaced(shared, folder):
    (folder / "notes").mkdir(parents=True)
    (folder / "notes" / "mine.txt").touch()
    with refused("exists", "'mine.txt'"):
        shared.save_pretrained(folder / "notes", overwrite=True)
    assert (folder / "notes" / "mine.txt").exists()


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("adapter.safetensors", "adapter.layers.1.self_attn.q_proj.A"),
        ("posterior.safetensors", "head.mean"),
        ("posterior.safetensors", "head.fitted_scale"),
        ("posterior.safetensors", "feature_scale"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "misshapen", "unexpected"])
def test_tensors_that_do_not_belong_are_named(model, file, name, damage):
    without_hashes(model)
    tensors = load_file(model / file)
    if damage == "missing":
        del tensors[name]
    elif damage == "misshapen":
        tensors[name] = torch.zeros(*tensors[name].shape, 2)
    else:
        name = f"{name}.more"
        tensors[name] = torch.zeros(1)
    save_file(tensors, model / file)
    with pytest.raises(bl.InputError) as caught:
        load(model)
    assert caught.value.code == "damaged"
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_members": 2}, "got nothing"),
        ({"classes": ["a", "b"]}, "expected ["),
        ({"posterior": {"name": "vblll"}}, "unknown posterior 'vblll'"),
        ({"adapter": {"name": "polar", "r": 2}}, "expected ["),
        ({"format_version": 2}, "has format version 2"),
    ],
)
def test_a_record_that_does_not_fit_is_an_input_error(model, change, message):
    without_hashes(model)
    path = model / "bayeslora.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(bl.InputError) as caught:
        load(model)
    assert message in str(caught.value)


def test_a_fit_writes_its_directory_once_it_is_finished(llama, tmp_path):
    out = tmp_path / "model"
    clf = new(llama).fit(toy_rows(24), epochs=1, out=out)
    again = bl.BayesianClassifier.from_pretrained(out, device="cpu", progress=False)
    assert same(clf.predict(TEST), again.predict(TEST))
    assert not (out / "checkpoints").exists()
    with refused("exists"):
        new(llama).fit(toy_rows(24), epochs=1, out=out)
    new(llama, seed=5).fit(toy_rows(24), epochs=1, out=out, overwrite=True)
    assert bl.BayesianClassifier.from_pretrained(out, progress=False).record.seed == 5


@pytest.mark.parametrize(
    ("options", "rows", "message"),
    [
        ({"backbone": "minilmm"}, toy_rows(24), "smollm2-135m, minilm, dinov2-s"),
        ({"adapter": "lora:r=999"}, toy_rows(24), "r must be between 1 and"),
        ({"adapter": "lora:target_modules=[wq]"}, toy_rows(24), "target_modules 'wq' matches"),
        ({"posterior": "mc_dropout"}, toy_rows(24), "'mc_dropout' needs active dropout"),
        ({"posterior": "temperature"}, toy_rows(24), "needs validation data"),
        ({"posterior": "gvbll:inflation=2"}, toy_rows(24), "'gvbll' needs validation data"),
        ({}, [{"text": "a", "label": "x"}], "at least two classes"),
        ({}, [{"text": "a"}], "label"),
    ],
)
def test_what_cannot_be_fitted_writes_nothing(llama, tmp_path, options, rows, message):
    clf = new(**{"backbone": llama, **options})
    with pytest.raises(bl.InputError) as caught:
        clf.fit(rows, epochs=1, out=tmp_path / "model")
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    with refused("not-fitted"):
        clf.predict(TEST)


def test_an_interrupted_overwrite_leaves_the_old_model_and_goes_on(llama, tmp_path, monkeypatch):
    rows = toy_rows(24)
    options = {"epochs": 2, "batch_size": 8, "cv": 0}
    out = tmp_path / "model"
    old = new(llama, seed=5).fit(rows, out=out, **options).predict(TEST)
    expected = new(llama).fit(rows, **options).predict(TEST)
    end, epochs = Loop.end_epoch, []

    def interrupted(loop, loss):
        epochs.append(loop.epoch + 1)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return end(loop, loss)

    monkeypatch.setattr(Loop, "end_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        new(llama).fit(rows, out=out, overwrite=True, **options)
    stored = bl.BayesianClassifier.from_pretrained(out, device="cpu", progress=False)
    assert same(stored.predict(TEST), old)
    resumed = new(llama).fit(rows, out=out, overwrite=True, **options)
    assert epochs == [1, 2, 2]
    assert same(resumed.predict(TEST), expected)
    written = bl.BayesianClassifier.from_pretrained(out, device="cpu", progress=False)
    assert same(written.predict(TEST), expected)
    assert not (out / "checkpoints").exists()
    assert not (out / "interrupted-fit.json").exists()
