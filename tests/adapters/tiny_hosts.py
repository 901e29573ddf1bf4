"""Small random hosts for adapter tests: a decoder, an encoder and a plain stack of layers."""

import torch
from torch import nn

from bayeslora.adapters.stats import second_moments

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}


def tiny_llama(**options):
    """Grouped queries: k_proj and v_proj have 8 outputs and 16 inputs."""
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    return LlamaModel(LlamaConfig(**SIZES, num_key_value_heads=2, **options)).eval()


def tiny_bert():
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return BertModel(BertConfig(**SIZES)).eval()


class Stack(nn.Module):
    """Three layers of 6 inputs and 6 outputs in a list, then a head of 4 outputs."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


def stack():
    torch.manual_seed(0)
    return Stack()


def tokens(rows=3, length=5):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, SIZES["vocab_size"], (rows, length), generator=generator)


def output(model, inputs):
    """The hidden states of a transformer, or what any other model returns."""
    with torch.no_grad():
        result = model(inputs)
    return getattr(result, "last_hidden_state", result)


def moments_on(model, names, inputs):
    """Second moments of layers on inputs of a host, every row or token of which is real."""
    mask = torch.ones(inputs.shape if not inputs.is_floating_point() else (len(inputs), 1))
    inputs = inputs.to(next(model.parameters()).dtype) if inputs.is_floating_point() else inputs
    layers = {name: model.get_submodule(name) for name in names}
    return second_moments(
        lambda batch: model(batch["inputs"]), layers, [{"inputs": inputs, "attention_mask": mask}]
    )


def randomise(sites, seed=2, size=0.3):
    """Give every free parameter values as after training; orthonormal factors stay."""
    generator = torch.Generator().manual_seed(seed)
    for site in sites:
        for key, value in site.trainable().items():
            if key not in site.manifold():
                value.data = (size * torch.randn(value.shape, generator=generator)).to(value)
