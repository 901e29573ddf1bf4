"""Small random hosts for adapter tests: a decoder, an encoder and a plain stack of layers."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from bayeslora.adapters.inject import inject
from bayeslora.adapters.stats import SecondMoment, second_moments

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}


def tiny_llama(**options):
    """Return a Llama with grouped queries: k_proj and v_proj have 8 outputs and 16 inputs."""
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    return LlamaModel(LlamaConfig(**SIZES, num_key_value_heads=2, **options)).eval()


def tiny_bert():
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return BertModel(BertConfig(**SIZES)).eval()


def tokens(rows=3, length=5):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, SIZES["vocab_size"], (rows, length), generator=generator)


def moments_on(model, names, inputs):
    """Return second moments of layers on inputs of a host without any padding."""
    mask = torch.ones(inputs.shape if not inputs.is_floating_point() else (len(inputs), 1))
    inputs = inputs.to(next(model.parameters()).dtype) if inputs.is_floating_point() else inputs
    layers = {name: model.get_submodule(name) for name in names}
    return second_moments(
        lambda batch: model(batch["inputs"]), layers, [{"inputs": inputs, "attention_mask": mask}]
    )


@dataclass(frozen=True)
class KnownMoments:
    """Training rows whose second moments are known, for `begin`."""

    model: nn.Module
    sites: list
    known: Mapping[str, SecondMoment]

    def moments(self, count, texts=None):
        return self.known


def inject_with(moments, model, config, seed=0):
    """Insert adapters that start from second moments of the inputs of their layers."""
    sites = inject(model, config, seed)
    config.begin(KnownMoments(model, sites, moments))
    return sites
