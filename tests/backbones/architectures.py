"""Small models of many architectures with random weights, none of them on disk."""

import numpy as np
import torch

from bayeslora.backbones.load import Backbone, fingerprint, model_kind
from bayeslora.backbones.tokens import Tokens

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
# Windows shorter than the texts, so that a sliding layer differs from a full one.
ALTERNATING = {
    "sliding_window": 3,
    "layer_types": ["full_attention", "sliding_attention", "full_attention"],
}

# Class, options of the configuration, dotted name of the list of layers.
ARCHITECTURES = {
    "llama": ("Llama", GROUPED, "layers"),
    "gemma": ("Gemma", {**GROUPED, "head_dim": 4}, "layers"),
    "gpt2": (
        "GPT2",
        {
            "vocab_size": 40,
            "n_embd": 16,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 32,
            "bos_token_id": 2,
            "eos_token_id": 2,
        },
        "h",
    ),
    "qwen2": ("Qwen2", {**GROUPED, "use_sliding_window": True, **ALTERNATING}, "layers"),
    "bert": ("Bert", SIZES, "encoder.layer"),
    "roberta": ("Roberta", SIZES, "encoder.layer"),
    "modernbert": (
        "ModernBert",
        {
            **SIZES,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "cls_token_id": 1,
            "eos_token_id": 2,
            "sep_token_id": 2,
            "global_attn_every_n_layers": 2,
            "local_attention": 4,
        },
        "layers",
    ),
    "distilbert": (
        "DistilBert",
        {
            "vocab_size": 40,
            "dim": 16,
            "hidden_dim": 24,
            "n_layers": 3,
            "n_heads": 4,
            "max_position_embeddings": 32,
        },
        "transformer.layer",
    ),
    "deberta-v2": (
        "DebertaV2",
        {
            **SIZES,
            "relative_attention": True,
            "position_buckets": 8,
            "pos_att_type": ["p2c", "c2p"],
        },
        "encoder.layer",
    ),
}

# Modules that run between or beside the layers are lost if the lower layers run separately.
UNCUT = {
    "xlm": (
        "XLM",
        {
            "vocab_size": 40,
            "emb_dim": 16,
            "n_layers": 3,
            "n_heads": 4,
            "max_position_embeddings": 32,
            "pad_index": 0,
        },
        "attentions",
    ),
    "deberta-v2 with a convolution": (
        "DebertaV2",
        {**ARCHITECTURES["deberta-v2"][1], "conv_kernel_size": 3, "conv_act": "gelu"},
        "encoder.layer",
    ),
}

# Padding changes the states of a text.
UNPADDED = {"convbert": ("ConvBert", {**SIZES, "embedding_size": 16}, "encoder.layer")}


def build(name, **changes):
    """Return a model and the dotted name of its list of layers."""
    import transformers

    family, options, path = (ARCHITECTURES | UNCUT | UNPADDED)[name]
    config = getattr(transformers, f"{family}Config")(**options, **changes)
    torch.manual_seed(0)
    return getattr(transformers, f"{family}Model")(config).eval(), path


class NoTokenizer:
    """Stands in for a tokenizer where token ids are written by hand; each word is a token."""

    pad_token_id = 0

    def __call__(self, texts, *_, **__):
        return {"input_ids": [[3 + place for place in range(len(text.split()))] for text in texts]}


def backbone(name, dtype=torch.float32):
    """Return a loaded, frozen backbone without a tokenizer, and the name of its layers."""
    model, path = build(name)
    model.requires_grad_(False)
    kind = model_kind(name, model.config)
    return Backbone(name, model, NoTokenizer(), kind, fingerprint(model), dtype), path


def batch():
    """Return `input_ids` and `attention_mask` of four texts of 9, 6, 3 and 9 tokens."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, SIZES["vocab_size"], (4, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    mask[2, 3:] = 0
    return ids * mask, mask


def tokens():
    """Return the texts of `batch`, unpadded."""
    ids, mask = batch()
    rows = [ids[row][mask[row] == 1].numpy().astype(np.int64) for row in range(len(ids))]
    return Tokens(tuple(rows), 0, 0)


def last_hidden(model, ids, mask):
    """Return the last hidden states of the whole model."""
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
