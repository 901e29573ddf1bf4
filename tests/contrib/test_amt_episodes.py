"""Meta-tuning step by step: episodes, perturbations of inputs and weights, resumption."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import CLASSES, tiny_bert, tiny_vit, toy_rows

from bayeslora.backbones.load import load_backbone
from bayeslora.contrib import amt as engine
from bayeslora.contrib.amt import AMT, Adversary, MetaTuning, draw_episode, meta_tune, mix
from bayeslora.contrib.perturbation import ascend, content, open_inputs
from bayeslora.engine.build import build_network
from bayeslora.engine.plan import Plan
from bayeslora.engine.training import Training
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.posteriors.point import MLE

ADAPTER = AMT(
    r=2,
    ways=3,
    shots=2,
    queries=3,
    num_episodes=3,
    eps=(0.0, 0.1),
    weight_eps=(0.0, 0.05),
    lr=1e-2,
    target_modules=("query", "value"),
)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    path = tiny_bert(tmp_path_factory.mktemp("models") / "bert")
    return load_backbone(str(path), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    path = tiny_vit(tmp_path_factory.mktemp("models") / "vit")
    return load_backbone(str(path), dtype="float32", device="cpu")


def network_of(backbone, adapter=ADAPTER):
    return build_network(backbone, Plan(adapter=adapter, posterior=MLE(), max_length=32), 3).eval()


def texts_of(network, count=24):
    rows = toy_rows(count)
    labels = torch.tensor([CLASSES.index(row["label"]) for row in rows])
    prepared = network.encoder.prepare([row["text"] for row in rows])
    return replace(prepared, labels=labels)


def training(network, rows, adapter=ADAPTER, *, seed, max_grad_norm, directory=None):
    settings = TrainingSettings(seed=seed, max_grad_norm=max_grad_norm)
    plan = Plan(adapter=adapter, seed=seed, training=settings, progress=False)
    return Training(network, plan, rows, directory=directory)


def state_of(network):
    return {name: item.clone() for name, item in network.trained_state().items()}


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_an_episode_has_k_rows_of_each_class_and_other_queries():
    labels = torch.arange(4).repeat(6)
    plan = AMT(ways=3, shots=2, queries=3)
    episode = draw_episode(labels, plan, np.random.default_rng(0))
    assert len(episode.support) == 6
    assert len(episode.queries) == 9
    assert not {*episode.support} & {*episode.queries}
    for rows, episode_labels in (
        (episode.support, episode.support_labels),
        (episode.queries, episode.query_labels),
    ):
        # Each label of the episode corresponds to one class.
        pairs = {*zip(episode_labels.tolist(), labels[rows].tolist(), strict=True)}
        assert len(pairs) == 3


# Perturbations of inputs.


def loss_of(network, labels):
    weight = torch.randn(
        3, network.encoder.num_features, generator=torch.Generator().manual_seed(3)
    )

    def loss(batch):
        return [torch.nn.functional.cross_entropy(network.encoder(batch) @ weight.T, labels)]

    return loss


def test_tokens_of_a_text_move_inside_their_ball_and_others_do_not(bert):
    network = network_of(bert)
    rows = texts_of(network)
    inputs = open_inputs(network.encoder, rows, range(6))
    delta = ascend(
        loss_of(network, rows.labels[:6]), inputs, eps=0.1, steps=4, generator=torch.Generator()
    )
    table = bert.model.get_input_embeddings().weight
    radius = 0.1 * table.norm(dim=-1).mean()
    length = delta.norm(dim=-1)
    batch = rows.collate(range(6))
    inside = content(bert, batch["input_ids"], batch["attention_mask"]).bool()
    special = torch.isin(batch["input_ids"], torch.tensor(bert.tokenizer.all_special_ids))
    assert not bool((inside & special).any())
    assert bool((length[inside] > 0).all())
    assert float(length.max()) <= float(radius) * (1 + 1e-6)
    assert bool((length[~inside] == 0).all())


# Perturbations of weights; steps.


def tuned(backbone, member=1, adversary=None, limit=math.inf):
    network = network_of(backbone)
    rows = texts_of(network)
    plan = ADAPTER
    tuning = MetaTuning(
        network, plan, member, adversary or plan.adversaries(images=False)[member], limit
    )
    episode = draw_episode(rows.labels, plan, np.random.default_rng(0))
    return network, rows, tuning, episode


# A step against both adversaries, written out.

KEYS = ("A", "B")
LIMIT = 0.005
"""Below the norm of the gradients, so that they are clipped."""


class WrittenOut:
    """Steps of one member in the operations of torch, without the code of meta-tuning."""

    def __init__(self, network, rows, member, adversary, limit):
        self.network, self.rows, self.member, self.adversary = network, rows, member, adversary
        self.limit = limit
        mix(network, [float(index == member) for index in range(2)])
        self.scale = torch.tensor(10.0, requires_grad=True)
        self.factors = [getattr(site, key).weight for site in network.sites for key in KEYS]
        self.optimizer = torch.optim.SGD([*self.factors, self.scale], lr=1.0, momentum=0.9)

    def step(self, episode, generator, rate):
        """Take one step at a learning rate, and return its loss."""
        self.labels = episode.support_labels, episode.query_labels
        self.support, self.queries = (
            self.rows.collate(numbers.tolist()) for numbers in (episode.support, episode.queries)
        )
        x = self.table()[self.queries["input_ids"]].detach()
        delta = self.ascended(x, generator)
        before = [factor.detach().clone() for factor in self.factors]
        if self.adversary.weights:
            loss = self.loss(x, delta, self.centres().detach())
            gradients = torch.autograd.grad(loss, self.factors)
            with torch.no_grad():
                for factor, gradient in zip(self.factors, gradients, strict=True):
                    axis = factor.shape.index(4)
                    own, uphill = (item.chunk(2, axis)[self.member] for item in (factor, gradient))
                    own += self.adversary.weights * own.norm() * uphill / uphill.norm()
        loss = self.loss(x, delta, self.centres())
        self.optimizer.zero_grad()
        loss.backward()
        gradients = [item.grad for item in (*self.factors, self.scale)]
        self.norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        for gradient in gradients:
            gradient.mul_(min(1, self.limit / self.norm))
        with torch.no_grad():
            for factor, value in zip(self.factors, before, strict=True):
                factor.copy_(value)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        return loss.item()

    def table(self):
        return self.network.encoder.backbone.model.get_input_embeddings().weight

    def ascended(self, x, generator):
        """Return δ after three steps of half a radius uphill on the divergence."""
        moves = self.queries["attention_mask"].bool()
        for special in self.network.encoder.backbone.tokenizer.all_special_ids:
            moves = moves & (self.queries["input_ids"] != special)
        radius = self.adversary.inputs * self.table().norm(dim=1).mean() * moves[..., None]
        noise = torch.randn(x.shape, generator=generator)
        share = torch.rand((*x.shape[:2], 1), generator=generator)
        delta = radius * share * noise / noise.norm(dim=-1, keepdim=True)
        centres = self.centres().detach()
        for _ in range(3):
            delta = delta.detach().requires_grad_()
            value = self.kl(self.logits(x, centres).detach(), self.logits(x + delta, centres))
            (gradient,) = torch.autograd.grad(value, delta)
            length = gradient.norm(dim=-1, keepdim=True).clamp_min(1e-30)
            delta = delta.detach() + 0.5 * radius * gradient / length
            length = delta.norm(dim=-1, keepdim=True)
            delta = torch.where(length > radius, delta * radius / length, delta)
        return delta.detach()

    def centres(self):
        features = self.network.encoder(self.support)
        return torch.stack([features[self.labels[0] == label].mean(0) for label in range(3)])

    def logits(self, x, centres):
        batch = {name: item for name, item in self.queries.items() if name != "input_ids"}
        features = self.network.encoder({**batch, "inputs_embeds": x})
        cosines = torch.nn.functional.cosine_similarity(features[:, None], centres[None], dim=-1)
        return self.scale * cosines

    def kl(self, clean, moved):
        p, q = (torch.distributions.Categorical(logits=logits) for logits in (clean, moved))
        return torch.distributions.kl_divergence(p, q).mean()

    def loss(self, x, delta, centres):
        clean, moved = (self.logits(item, centres) for item in (x, x + delta))
        return torch.nn.functional.cross_entropy(clean, self.labels[1]) + 6 * self.kl(clean, moved)

    def agrees(self, network, start):
        """Check the factors of a network: their differences are far below their changes."""
        for factor, expected, before in zip(factors_of(network), self.factors, start, strict=True):
            change = (expected - before).norm()
            assert (factor - expected).norm() < 2e-3 * change


def factors_of(network):
    return [getattr(site, key).weight.detach().clone() for site in network.sites for key in KEYS]


@pytest.mark.parametrize("limit", [math.inf, LIMIT])
@pytest.mark.parametrize("adversary", [(0.3, 0.1), (0.3, 0.0), (0.0, 0.1)])
def test_a_step_against_adversaries_is_the_written_out_one(bert, adversary, limit):
    network, rows, tuning, episode = tuned(bert, adversary=Adversary(*adversary), limit=limit)
    start = factors_of(network)
    written = WrittenOut(network_of(bert), rows, 1, Adversary(*adversary), limit)
    tuning.optimizer.param_groups[0]["lr"] = 1.0
    loss = tuning.step(rows, episode, torch.Generator().manual_seed(5))
    expected = written.step(episode, torch.Generator().manual_seed(5), 1.0)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert written.norm > LIMIT
    written.agrees(network, start)
    torch.testing.assert_close(tuning.scale, written.scale)


@pytest.mark.parametrize("after", [1, 2, 4])
def test_an_interrupted_tuning_ends_in_the_same_bits(bert, tmp_path, monkeypatch, after):
    monkeypatch.setattr(engine, "_EVERY", 1)
    whole = network_of(bert)
    options = {"seed": 3, "max_grad_norm": 1}
    expected = meta_tune(
        training(whole, texts_of(whole), **options, directory=tmp_path / "whole"), ADAPTER
    )
    options["directory"] = tmp_path / "part"
    network = network_of(bert)
    calls = []
    step = MetaTuning.step

    def stop(self, *args):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(args)
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(MetaTuning, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            meta_tune(training(network, texts_of(network), **options), ADAPTER)
    again = network_of(bert)
    result = meta_tune(training(again, texts_of(again), **options), ADAPTER)
    assert result == expected
    assert equal(state_of(whole), state_of(again))
