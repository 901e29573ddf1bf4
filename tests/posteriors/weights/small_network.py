"""A float64 network of two adapter sites, small enough for brute force, with our interface."""

from types import SimpleNamespace

import numpy as np
import torch
from small_sites import lora_site, polar_site
from torch import nn
from torch.func import functional_call, jacrev

from bayeslora import LaplaceLoRA
from bayeslora.backbones.tokens import length_batches
from bayeslora.posteriors.point import PointHead
from bayeslora.posteriors.types import Features
from bayeslora.posteriors.weights.laplace_lora import LaplaceLoRAWeights

F64 = torch.float64
SITES = {"lora": lora_site, "polar": polar_site}


class SmallTexts:
    """Rows of unequal length, as returned by `PreparedTexts`; padding holds `fill`."""

    def __init__(self, rows, fill=0.0, extra=0):
        self.rows, self.fill, self.extra = rows, fill, extra
        lengths = np.array([len(row) for row in rows])
        self.tokens = SimpleNamespace(lengths=lengths, num_options=0)

    def __len__(self):
        return len(self.rows)

    def collate(self, places):
        width = max(len(self.rows[place]) for place in places) + self.extra
        states = torch.full((len(places), width, 4), self.fill, dtype=F64)
        mask = torch.zeros(len(places), width, dtype=torch.int64)
        for at, place in enumerate(places):
            length = len(self.rows[place])
            states[at, :length], mask[at, :length] = self.rows[place], 1
        return {"states": states, "attention_mask": mask}


class SmallNetwork(nn.Module):
    """Two sites, a non-linearity after each, and the mean over real tokens."""

    def __init__(self, adapter="lora", classes=3):
        super().__init__()
        self.first = SITES[adapter](out=5, inputs=4).double()
        self.second = SITES[adapter](out=6, inputs=5, seed=1).double()
        self.first.name, self.second.name = "layer.0.query", "layer.1.value"
        self.sites = [self.first, self.second]
        self.head = PointHead(6, classes).double()
        generator = torch.Generator().manual_seed(2)
        self.head.set_mean(torch.randn(classes, 6, generator=generator, dtype=F64))
        # Bypass the registration of nn.Module, which would recurse endlessly.
        object.__setattr__(self, "encoder", self)

    def forward(self, batch):
        return Features(self.pooled(batch))

    def pooled(self, batch):
        mask = batch["attention_mask"].bool()[..., None]
        states = torch.where(mask, batch["states"], torch.zeros((), dtype=F64))
        states = torch.tanh(self.second(torch.tanh(self.first(states))))
        return (states * mask).sum(1) / mask.sum(1)

    @torch.no_grad()
    def features(self, texts, batch_size):
        return torch.cat([self.pooled(texts.collate([row])) for row in range(len(texts))])

    def batches(self, lengths, size):
        return length_batches(lengths, size)

    def scaled(self, features):
        return Features(features)

    def logits(self, batch):
        return self.pooled(batch) @ self.head.weight.T


def small_texts(count=8, seed=0, longest=4, **options):
    generator = torch.Generator().manual_seed(seed)
    lengths = [1 + row % longest for row in range(count)]
    rows = [torch.randn(length, 4, generator=generator, dtype=F64) for length in lengths]
    return SmallTexts(rows, **options)


def labels_of(texts, classes=3):
    return torch.arange(len(texts)) % classes


def posterior_of(network, **options):
    config = LaplaceLoRA(**{"prior_precision": 0.7} | options)
    return LaplaceLoRAWeights(config, network.sites, tuple(network.head.weight.shape))


def fitted(network, texts, validation=None, **options):
    weights = posterior_of(network, **options)
    weights.fit(network, (texts, labels_of(texts)), validation)
    return weights


def covariance(network, weights, texts):
    rows = network.scaled(network.features(texts, 1))
    return weights.gaussian_logits(network, texts, rows, lambda _: None).covariance


def parameter_names(network, weights):
    """Return the names of the random parameters in the order of the random layers."""
    known = {id(parameter): name for name, parameter in network.named_parameters()}
    names = [known[id(item.layer.weight)] for item in weights.layers]
    return [*names, "head.weight"]


def jacobians(network, names, texts):
    """Return [N, C, P] by reverse mode on each row separately, without padding."""
    row_jacobians = []
    for row in range(len(texts)):
        batch = SmallTexts([texts.rows[row]]).collate([0])

        def logits(values, batch=batch):
            return functional_call(_Logits(network), values, (batch,))[0]

        values = {f"network.{name}": network.get_parameter(name).detach() for name in names}
        parts = jacrev(logits)(values)
        row_jacobians.append(torch.cat([parts[name].flatten(1) for name in values], 1))
    return torch.stack(row_jacobians).detach()


def gauss_newton(network, names, texts):
    """Return Σ_n J_nᵀ (diag p_n − p_n p_nᵀ) J_n, [P, P]."""
    jacobian = jacobians(network, names, texts)
    with torch.no_grad():
        probs = (network.features(texts, 1) @ network.head.weight.T).softmax(-1)
    middle = torch.diag_embed(probs) - probs[:, :, None] * probs[:, None, :]
    return torch.einsum("ncp,nck,nkq->pq", jacobian, middle, jacobian)


class _Logits(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, batch):
        return self.network.logits(batch)
