"""Small random hosts for adapter tests: a decoder, an encoder and a plain stack of layers."""

import torch

from bayeslora.testing.adapter import SiteLaws

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


class OnLlama(SiteLaws):
    def host(self):
        return tiny_llama()

    def inputs(self):
        return tokens()


class OnBert(SiteLaws):
    def host(self):
        return tiny_bert()

    def inputs(self):
        return tokens()
