"""AMT through the classifier: fit, merges, new classes, export, too few rows."""

import pytest
import torch
from tiny import tiny_bert, toy_rows
from usage import TEST, new, same

import bayeslora as bl
from bayeslora.engine.calibrate import known
from bayeslora.errors import InputError

OPTIONS = {
    "r": 2,
    "ways": 3,
    "shots": 2,
    "queries": 3,
    "num_episodes": 3,
    "eps": (0.0, 0.1),
    "weight_eps": (0.0, 0.01),
    "lr": 1e-2,
}
TRAIN = toy_rows(24)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("models") / "bert")


def fitted(backbone, posterior="prototypes", train=TRAIN, **options):
    return new(backbone, bl.AMT(**OPTIONS | options), posterior, dtype="float32").fit(train)


@pytest.fixture(scope="module")
def uniform(bert):
    return fitted(bert)


def test_prototypes_are_means_and_their_scale_is_the_tuned_one(uniform):
    network = uniform.network
    rows = known(uniform.network, bl_examples(TRAIN))[2]
    features, labels = rows.values, rows.labels
    expected = torch.stack([features[labels == n].double().mean(0) for n in range(3)])
    torch.testing.assert_close(network.head.centres, expected)
    scales = network.sites[0].cosine_scales
    assert float(network.head.scale) == pytest.approx(float(scales.mean()), rel=1e-6)


def bl_examples(rows):
    from bayeslora.data.read import read

    return read(rows)


def test_an_export_for_peft_computes_the_same(bert, uniform, tmp_path):
    pytest.importorskip("peft")
    from peft import PeftModel
    from transformers import AutoModel

    uniform.export_peft(tmp_path / "peft")
    encoder = uniform.network.encoder
    batch = encoder.probe().collate([0, 1])
    with torch.no_grad():
        expected = encoder(batch)
        base = AutoModel.from_pretrained(bert)
        model = PeftModel.from_pretrained(base, tmp_path / "peft").eval()
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    torch.testing.assert_close((states * mask).sum(1) / mask.sum(1), expected, atol=1e-5, rtol=1e-5)


# New classes.


def named(rows, names):
    return [{**row, "label": names[row["label"]]} for row in rows]


OTHERS = {"animals": "zoo", "food": "kitchen", "weather": "sky"}


@pytest.mark.parametrize("merge", ["uniform", "published"])
def test_a_pool_adapts_to_new_classes_and_stays_as_it_is(bert, merge):
    pool = fitted(bert, merge=merge)
    before = pool.predict(TEST)
    support = named(toy_rows(12, seed=5), OTHERS)
    other = pool.adapt(support)
    assert other.classes == ("kitchen", "sky", "zoo")
    predictions = other.predict(named(TEST, OTHERS))
    assert predictions.probs.shape == (15, 3)
    assert same(pool.predict(TEST), before)
    assert same(pool.adapt(support).predict(named(TEST, OTHERS)), predictions)


# Images, and invalid options.


def test_an_episode_with_too_few_rows_is_refused_before_the_backbone_is_loaded(tmp_path):
    with pytest.raises(InputError) as caught:
        new(tmp_path / "nothing", bl.AMT(**OPTIONS | {"shots": 8})).fit(TRAIN)
    assert "'animals'" in str(caught.value)
