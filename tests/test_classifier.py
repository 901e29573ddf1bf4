"""The object a user holds: fit, predict, calibrate, save, load."""

import json
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import CLASSES, tiny_bert, tiny_classifier, tiny_llama, tiny_tokenizer, toy_rows

import bayeslora as bl
from bayeslora.backbones.load import load_backbone

TEST = toy_rows(15, seed=8)
COMBINATIONS = [
    *(("lora:r=2", posterior) for posterior in ("mle", "map", "temperature", "mc_dropout")),
    ("lora:r=2", "ensemble:num_members=2"),
    ("polar:r=4", "vbll"),
    ("polar:r=4", "vbll:covariance=diagonal,link=probit"),
    ("polar:r=4", "laplace"),
    ("polar:r=4", "laplace:structure=full"),
    ("polar:r=4", "laplace:structure=diag,link=bridge"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def llama(folder):
    return str(tiny_llama(folder / "llama"))


@pytest.fixture(scope="module")
def bert(folder):
    return str(tiny_bert(folder / "bert"))


@pytest.fixture(scope="module")
def foreign(folder):
    return str(tiny_classifier(folder / "foreign"))


def new(backbone, adapter="polar:r=4", posterior="vbll", **options):
    options = {"device": "cpu", "progress": False, "max_length": 32} | options
    return bl.BayesianClassifier(backbone, adapter, posterior, **options)


def fitted(backbone, *args, **options):
    return new(backbone, *args, **options).fit(
        toy_rows(24), toy_rows(12, seed=1), epochs=1, batch_size=8
    )


@pytest.fixture(scope="module")
def shared(llama):
    """One fitted classifier for the tests that only look at it."""
    return fitted(llama)


def same(first, second):
    """Return whether two predictions are equal in every bit of every number."""
    return all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("probs", "total", "aleatoric", "epistemic")
    )


@pytest.mark.parametrize(("adapter", "posterior"), COMBINATIONS)
def test_save_and_load_change_no_bit(llama, tmp_path, adapter, posterior):
    clf = fitted(llama, adapter, posterior)
    clf.save_pretrained(tmp_path / "model")
    again = bl.BayesianClassifier.from_pretrained(tmp_path / "model", device="cpu", progress=False)
    assert again.record == clf.record
    assert (again.adapter, again.posterior) == (clf.adapter, clf.posterior)
    for options in ({}, {"num_samples": 0}, {"num_samples": 7, "seed": 3}):
        assert same(clf.predict(TEST, **options), again.predict(TEST, **options))
    # A second round writes the same tensors.
    again.save_pretrained(tmp_path / "copy")
    for name in ("adapter.safetensors", "posterior.safetensors"):
        assert (tmp_path / "model" / name).read_bytes() == (tmp_path / "copy" / name).read_bytes()


def test_an_encoder_works_too(bert, tmp_path):
    clf = fitted(bert, "lora:r=2,dropout=0.1", "vbll", dtype="float32")
    clf.save_pretrained(tmp_path / "model")
    again = bl.BayesianClassifier.from_pretrained(tmp_path / "model", device="cpu", progress=False)
    assert same(clf.predict(TEST), again.predict(TEST))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "auto"])
def test_a_shared_backbone_is_remembered_as_it_was_loaded(llama, tmp_path, dtype):
    clf = fitted(load_backbone(llama, dtype=dtype, device="cpu"))
    clf.save_pretrained(tmp_path / "model")
    again = bl.BayesianClassifier.from_pretrained(tmp_path / "model", device="cpu", progress=False)
    assert same(clf.predict(TEST), again.predict(TEST))


def test_predictions_carry_everything(shared):
    found = shared.predict(TEST)
    assert found.classes == CLASSES == shared.classes
    assert found.ids == tuple(row["id"] for row in TEST)
    assert [CLASSES[label] for label in found.labels] == [row["label"] for row in TEST]
    np.testing.assert_allclose(found.probs.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(found.total, found.aleatoric + found.epistemic, atol=1e-12)
    assert (found.epistemic > 0).all()
    assert (found.scores["logit_variance"] > 0).all()
    assert found.name == "polar-vbll"
    assert found.metadata["link"] == "mc"
    assert found.metadata["num_samples"] == "1000"
    assert len(found.metadata["model_fingerprint"]) == 32


def test_the_mean_weights_are_deterministic_and_certain(shared):
    first, second = (shared.predict(TEST, num_samples=0, seed=seed) for seed in (0, 1))
    assert same(first, second)
    assert not first.epistemic.any()
    sampled = [shared.predict(TEST, seed=seed) for seed in (0, 0, 1)]
    assert same(sampled[0], sampled[1])
    assert not same(sampled[0], sampled[2])


def test_the_order_of_rows_does_not_matter(shared):
    forward, back = shared.predict(TEST), shared.predict(TEST[::-1])
    # Batches of another composition round differently in bfloat16.
    np.testing.assert_allclose(forward.probs, back.probs[::-1], atol=2e-2)


def test_labels_are_optional_and_may_be_partly_there(shared):
    bare = [{"text": row["text"]} for row in TEST]
    assert shared.predict(bare).labels is None
    mixed = [{**row, "label": row["label"] if n % 2 else None} for n, row in enumerate(TEST)]
    found = shared.predict(mixed)
    assert [label >= 0 for label in found.labels] == [bool(n % 2) for n in range(len(TEST))]


def test_unknown_labels_are_an_error_or_out_of_distribution(shared):
    rows = [TEST[0], {**TEST[1], "label": "sports"}]
    with pytest.raises(bl.InputError, match=r"row 2, column 'label': unknown label 'sports'"):
        shared.predict(rows)
    found = shared.predict(rows, unknown_labels="ood")
    assert found.labels[0] >= 0
    assert found.labels[1] == -1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": -1}, "num_samples must be >= 0, got -1"),
        ({"link": "probitt"}, "unknown link 'probitt' (did you mean 'probit'?)"),
        ({"unknown_labels": "skip"}, "must be 'error' or 'ood', got 'skip'"),
    ],
)
def test_prediction_options_are_checked(shared, options, message):
    with pytest.raises(bl.InputError) as caught:
        shared.predict(TEST, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("link", ["mc", "probit", "bridge"])
def test_links_are_chosen_and_remembered(shared, link):
    found = shared.predict(TEST, link=link)
    assert found.metadata["link"] == link
    assert (link == "mc") == same(found, shared.predict(TEST))


def test_objects_names_and_mappings_mean_the_same():
    spelled = [
        new("minilm", bl.LoRA(r=2), bl.VBLL(prior_scale=2.0)),
        new("minilm", "lora:r=2", "vbll:prior_scale=2"),
        new("minilm", {"name": "lora", "r": 2}, {"name": "vbll", "prior_scale": 2.0}),
    ]
    assert len({(clf.adapter, clf.posterior) for clf in spelled}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapter": "lorra"}, "unknown adapter 'lorra' (did you mean 'lora'?)"),
        ({"posterior": "vbl"}, "unknown posterior 'vbl' (did you mean 'vbll'?)"),
        ({"posterior": "vbll:links=mc"}, "unknown option of posterior vbll 'links'"),
        ({"adapter": None}, "adapter must be a name or an object"),
        ({"max_length": 0}, "max_length must be an integer >= 1, got 0"),
    ],
)
def test_options_are_checked_at_once(options, message):
    with pytest.raises(bl.InputError) as caught:
        new("minilm", **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("use", ["predict", "save", "calibrate", "classes", "record"])
def test_nothing_works_before_a_fit(tmp_path, use):
    clf = new("minilm")
    uses = {
        "predict": lambda: clf.predict(TEST),
        "save": lambda: clf.save_pretrained(tmp_path / "model"),
        "calibrate": lambda: clf.calibrate(TEST),
        "classes": lambda: clf.classes,
        "record": lambda: clf.record,
    }
    with pytest.raises(bl.InputError, match="is not fitted; call fit, from_pretrained or from_tr"):
        uses[use]()
    assert list(tmp_path.iterdir()) == []


def test_a_fit_writes_its_directory_once_it_is_finished(llama, tmp_path):
    out = tmp_path / "model"
    clf = new(llama).fit(toy_rows(24), epochs=1, out=out)
    again = bl.BayesianClassifier.from_pretrained(out, device="cpu", progress=False)
    assert same(clf.predict(TEST), again.predict(TEST))
    assert not (out / "checkpoints").exists()
    with pytest.raises(bl.InputError, match="exists; choose another"):
        new(llama).fit(toy_rows(24), epochs=1, out=out)
    new(llama, seed=5).fit(toy_rows(24), epochs=1, out=out, overwrite=True)
    assert bl.BayesianClassifier.from_pretrained(out, progress=False).record.seed == 5


@pytest.mark.parametrize(
    ("options", "rows", "message"),
    [
        ({"backbone": "minilmm"}, toy_rows(24), "unknown backbone 'minilmm'"),
        ({"dtype": "float16"}, toy_rows(24), "unknown dtype 'float16'"),
        ({"adapter": "lora:r=999"}, toy_rows(24), "r must be between 1 and"),
        ({"adapter": "lora:target_modules=[wq]"}, toy_rows(24), "target_modules 'wq' matches"),
        ({"posterior": "mc_dropout"}, toy_rows(24), "needs an adapter with dropout"),
        ({"posterior": "temperature"}, toy_rows(24), "needs validation data"),
        ({}, [{"text": "a", "label": "x"}], "at least two classes"),
        ({}, [{"text": "a"}], "label"),
        ({"seed": -1}, toy_rows(24), "seed must be an integer >= 0, got -1"),
    ],
)
def test_what_cannot_be_fitted_writes_nothing(llama, tmp_path, options, rows, message):
    clf = new(**{"backbone": llama, **options})
    with pytest.raises(bl.InputError) as caught:
        clf.fit(rows, epochs=1, out=tmp_path / "model")
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(bl.InputError, match="not fitted"):
        clf.predict(TEST)


def test_an_interrupted_fit_is_taken_up_by_the_same_call(llama, tmp_path, monkeypatch):
    from bayeslora.training import members

    rows, held = toy_rows(24), toy_rows(12, seed=1)
    expected = new(llama).fit(rows, held, epochs=2, batch_size=8).predict(TEST)
    train = members.train_network

    def die(*args, **options):
        def hook(epoch, _):
            if epoch == 2:
                raise KeyboardInterrupt

        return train(*args, **options, on_epoch=hook)

    out = tmp_path / "model"
    with monkeypatch.context() as patch:
        patch.setattr(members, "train_network", die)
        with pytest.raises(KeyboardInterrupt):
            new(llama).fit(rows, held, epochs=2, batch_size=8, out=out)
    with pytest.raises(bl.InputError, match="interrupted fit with another seed"):
        new(llama, seed=1).fit(rows, held, epochs=2, batch_size=8, out=out)
    with pytest.raises(bl.InputError, match="interrupted fit with another train"):
        new(llama).fit(rows[::-1], held, epochs=2, batch_size=8, out=out)
    with pytest.raises(bl.InputError, match="is not a bayeslora model"):
        bl.BayesianClassifier.from_pretrained(out)
    resumed = new(llama).fit(rows, held, epochs=2, batch_size=8, out=out)
    assert same(resumed.predict(TEST), expected)


def test_a_fit_that_fails_leaves_the_earlier_one(shared):
    before = shared.predict(TEST)
    with pytest.raises(bl.InputError):
        shared.fit([{"text": "a", "label": "x"}])
    assert same(shared.predict(TEST), before)


@pytest.fixture
def model(shared, tmp_path):
    shared.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def load(path, **options):
    return bl.BayesianClassifier.from_pretrained(path, device="cpu", progress=False, **options)


def test_another_backbone_is_refused(model, folder):
    other = tiny_llama(folder / "other", seed=1)
    with pytest.raises(bl.InputError, match="was made for another backbone than") as caught:
        load(model, backbone=str(other))
    found = load_backbone(str(other), device="cpu").fingerprint
    assert f"fingerprint {found}, expected {load(model).record.backbone['fingerprint']}" in str(
        caught.value
    )


def test_a_backbone_that_has_moved_can_be_named(model, shared, folder):
    moved = tiny_llama(folder / "moved")
    record = json.loads((model / "bayeslora.json").read_text())
    record["backbone"]["name"] = str(folder / "gone")
    (model / "bayeslora.json").write_text(json.dumps(record))
    with pytest.raises(bl.InputError, match="gone"):
        load(model)
    assert same(load(model, backbone=str(moved)).predict(TEST), shared.predict(TEST))


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
    words = {"missing": "is missing", "misshapen": "has shape", "unexpected": "is not expected"}
    assert f"do not fit its record: {name!r} {words[damage]}" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": {"fitted": True}}, "the record of a fitted vbll head is damaged"),
        ({"num_members": 2}, "belongs to no member"),
        ({"classes": ["a", "b"]}, "has shape"),
        ({"posterior": {"name": "vblll"}}, "unknown posterior 'vblll'"),
        ({"adapter": {"name": "polar", "r": 2}}, "has shape"),
        ({"adapter": None}, "adapter must be a name or an object"),
        ({"format_version": 2}, "has format version 2"),
    ],
)
def test_a_record_that_does_not_fit_is_an_input_error(model, change, message):
    path = model / "bayeslora.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(bl.InputError) as caught:
        load(model)
    assert message in str(caught.value)


def test_an_ensemble_checks_every_member(llama, tmp_path):
    fitted(llama, "lora:r=2", "ensemble:num_members=2").save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "posterior.safetensors"
    tensors = load_file(path)
    assert {name.split(".")[0] for name in tensors} == {"member-0", "member-1"}
    del tensors["member-1.head.weight"]
    save_file(tensors, path)
    with pytest.raises(bl.InputError, match=r"'head\.weight' is missing"):
        load(tmp_path / "model")


def logits(path, texts):
    from transformers import AutoModelForSequenceClassification

    network = AutoModelForSequenceClassification.from_pretrained(path).eval()
    inputs = tiny_tokenizer()(texts, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        return network(**inputs).logits.double()


def from_transformers(source, posterior="laplace", **options):
    return bl.BayesianClassifier.from_transformers(
        source, posterior, device="cpu", progress=False, **options
    )


@pytest.mark.parametrize("structure", ["kron", "full", "diag"])
def test_the_mean_of_a_foreign_classifier_is_the_classifier(foreign, tmp_path, structure):
    clf = from_transformers(foreign, f"laplace:structure={structure}").calibrate(toy_rows(30))
    expected = logits(foreign, [row["text"] for row in TEST]).softmax(1).numpy()
    found = clf.predict(TEST, num_samples=0)
    np.testing.assert_allclose(found.probs, expected, atol=1e-5)
    assert found.classes == CLASSES
    assert found.name == "laplace"
    # The posterior keeps the mean and adds uncertainty.
    assert (clf.predict(TEST).epistemic > 0).all()
    clf.save_pretrained(tmp_path / "model")
    assert same(load(tmp_path / "model").predict(TEST), clf.predict(TEST))


@pytest.mark.parametrize("posterior", ["vbll", "temperature", "map"])
def test_other_posteriors_start_from_a_foreign_classifier(foreign, tmp_path, posterior):
    clf = from_transformers(foreign, posterior).calibrate(toy_rows(30), toy_rows(15, seed=1))
    clf.save_pretrained(tmp_path / "model")
    assert same(load(tmp_path / "model").predict(TEST), clf.predict(TEST))
    assert clf.predict(TEST).name == posterior


def test_a_temperature_divides_the_logits(foreign):
    clf = from_transformers(foreign, "temperature").calibrate(toy_rows(60, seed=4))
    temperature = clf.record.results["posterior"]["temperature"]
    expected = (logits(foreign, [row["text"] for row in TEST]) / temperature).softmax(1)
    np.testing.assert_allclose(clf.predict(TEST).probs, expected.numpy(), atol=1e-5)


def test_calibration_leaves_the_network_alone(foreign):
    clf = from_transformers(foreign)
    network = clf._fitted.network.encoder.model
    before = {name: item.clone() for name, item in network.state_dict().items()}
    clf.calibrate(toy_rows(30))
    assert all(torch.equal(before[name], item) for name, item in network.state_dict().items())


def test_a_foreign_classifier_without_calibration_says_what_to_do(foreign):
    with pytest.raises(bl.InputError, match="calibrate"):
        from_transformers(foreign).predict(TEST)


@pytest.mark.parametrize("posterior", ["ensemble", "mc_dropout"])
def test_posteriors_of_a_whole_network_are_refused_for_finished_ones(foreign, shared, posterior):
    with pytest.raises(
        bl.InputError, match=f"posterior '{posterior}' is not one of the last layer"
    ):
        from_transformers(foreign, posterior)
    before = shared.posterior
    with pytest.raises(
        bl.InputError, match=f"posterior '{posterior}' is not one of the last layer"
    ):
        shared.calibrate(toy_rows(12), posterior=posterior)
    assert shared.posterior == before


def test_an_ensemble_has_no_single_last_layer(llama):
    clf = fitted(llama, "lora:r=2", "ensemble:num_members=2")
    before = clf.predict(TEST)
    for posterior in (None, "laplace"):
        with pytest.raises(bl.InputError, match="last layer"):
            clf.calibrate(toy_rows(12), posterior=posterior)
    assert same(clf.predict(TEST), before)


def test_another_posterior_starts_from_the_present_mean(llama, tmp_path):
    clf = fitted(llama, "polar:r=4", "map")
    before = clf.predict(TEST)
    clf.calibrate(toy_rows(24), posterior="laplace")
    np.testing.assert_allclose(clf.predict(TEST, num_samples=0).probs, before.probs, atol=1e-12)
    assert clf.posterior == bl.Laplace()
    assert clf.predict(TEST).name == "polar-laplace"
    clf.save_pretrained(tmp_path / "model")
    assert same(load(tmp_path / "model").predict(TEST), clf.predict(TEST))


def test_calibration_can_be_repeated(foreign):
    clf = from_transformers(foreign).calibrate(toy_rows(30))
    first = clf.predict(TEST)
    clf.calibrate(toy_rows(90, seed=6))
    assert clf.record.num_train == 90
    assert not same(clf.predict(TEST), first)
    assert same(clf.calibrate(toy_rows(30)).predict(TEST), first)


def test_a_foreign_classifier_may_be_given_integers(foreign):
    clf = from_transformers(foreign)
    rows = toy_rows(30)
    numbered = [{**row, "label": CLASSES.index(row["label"])} for row in rows]
    first = clf.calibrate(rows).predict(TEST)
    assert same(clf.calibrate(numbered).predict(TEST), first)


def test_other_columns_and_pairs(llama, tmp_path):
    def renamed(rows):
        return [{"premise": row["text"], "claim": "is it", "topic": row["label"]} for row in rows]

    clf = new(llama).fit(
        renamed(toy_rows(24)),
        epochs=1,
        text_column="premise",
        label_column="topic",
        pair_column="claim",
    )
    clf.save_pretrained(tmp_path / "model")
    found = load(tmp_path / "model").predict(renamed(TEST))
    assert same(found, clf.predict(renamed(TEST)))
    assert [CLASSES[label] for label in found.labels] == [row["label"] for row in TEST]
    with pytest.raises(bl.InputError, match="premise"):
        clf.predict(TEST)


def test_stdout_stays_empty_and_progress_is_on_stderr(llama, capsys, caplog):
    caplog.set_level(logging.WARNING)
    fitted(llama).predict(TEST)
    assert capsys.readouterr() == ("", "")
    fitted(llama, progress=True).predict(TEST)
    shown = capsys.readouterr()
    assert shown.out == ""
    for title in ("frozen layers", "fit", "predict"):
        assert title in shown.err


def test_the_global_state_of_torch_decides_nothing(llama):
    torch.manual_seed(1)
    first = fitted(llama).predict(TEST)
    torch.manual_seed(2)
    assert same(fitted(llama).predict(TEST), first)
