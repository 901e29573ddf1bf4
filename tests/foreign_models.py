"""Fine-tuned sequence classifiers as saved by other tools, with random weights."""

from pathlib import Path

import torch
from tiny import CLASSES, SIZES, tiny_tokenizer

_NAMES = dict(enumerate(CLASSES))
_SHARED = {"id2label": _NAMES, "label2id": {name: index for index, name in _NAMES.items()}}

# Class, options beyond SIZES, the final layer, adapted layers of a PEFT checkpoint.
FAMILIES = {
    "bert": ("Bert", {}, "classifier", ["query", "value"]),
    "roberta": ("Roberta", {}, "classifier.out_proj", ["query", "value"]),
    "distilbert": ("DistilBert", {}, "classifier", ["q_lin", "v_lin"]),
    "llama": ("Llama", {"num_key_value_heads": 2}, "score", ["q_proj", "v_proj"]),
}
# The same without the adapted layers: classifiers that are only read.
_DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
_MARKS = {"bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
_GROUPED = {"num_key_value_heads": 2, "head_dim": 4}
_GPT = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, **_MARKS}
ARCHITECTURES = {
    **{name: (*parts[:3], None) for name, parts in FAMILIES.items()},
    "albert": ("Albert", {"embedding_size": 8}, "classifier", None),
    "deberta": ("Deberta", _DEBERTA, "classifier", None),
    "deberta-v2": ("DebertaV2", _DEBERTA, "classifier", None),
    "electra": ("Electra", {"embedding_size": 8}, "classifier.out_proj", None),
    "mpnet": ("MPNet", {}, "classifier.out_proj", None),
    "modernbert": ("ModernBert", _MARKS, "classifier", None),
    "modernbert-mean": ("ModernBert", {**_MARKS, "classifier_pooling": "mean"}, "classifier", None),
    "fnet": ("FNet", {}, "classifier", None),
    "gemma2": ("Gemma2", _GROUPED, "score", None),
    "gpt2": ("GPT2", _GPT, "score", None),
    "mistral": ("Mistral", {"num_key_value_heads": 2}, "score", None),
    "qwen2": ("Qwen2", {"num_key_value_heads": 2}, "score", None),
    "qwen3": ("Qwen3", _GROUPED, "score", None),
    "xlnet": (
        "XLNet",
        {"d_model": 16, "d_inner": 24, "n_layer": 2, "n_head": 4, "bos_token_id": 2},
        "logits_proj",
        None,
    ),
}
_OWN_SIZES = ("distilbert", "gpt2", "xlnet")
_DISTILBERT = {
    "dim": 16,
    "hidden_dim": 24,
    "n_layers": 2,
    "n_heads": 4,
    "max_position_embeddings": 64,
}

# Convolutions let a text's padding affect its features.
UNPADDED = {
    "convbert": ("ConvBert", {"embedding_size": 16}, "classifier.out_proj", ["query", "value"])
}


def model(family, **changes):
    """Return a classifier in memory whose logits differ clearly between texts."""
    import transformers

    name, options, _, _ = (ARCHITECTURES | UNPADDED)[family]
    sizes = {} if family in _OWN_SIZES else {**SIZES, "num_hidden_layers": 2}
    sizes = _DISTILBERT if family == "distilbert" else sizes
    tokenizer = tiny_tokenizer()
    config = getattr(transformers, f"{name}Config")(
        **{
            **sizes,
            **options,
            **_SHARED,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            **changes,
        }
    )
    torch.manual_seed(0)
    network = getattr(transformers, f"{name}ForSequenceClassification")(config).eval()
    for parameter in network.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
    return network


def saved(family, path, **changes):
    """Write a classifier with its tokenizer; return its directory."""
    model(family, **changes).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return Path(path)


def saved_peft(family, path, *, with_tokenizer=True, name="default", **options):
    """Write a PEFT checkpoint and its base below `path`; return its directory and the model."""
    import transformers
    from peft import LoraConfig, get_peft_model

    base = saved(family, Path(path) / "base")
    name_of_class, _, _, layers = (FAMILIES | UNPADDED)[family]
    plain = getattr(transformers, f"{name_of_class}ForSequenceClassification").from_pretrained(base)
    options = {"r": 2, "target_modules": layers, "init_lora_weights": False} | options
    config = LoraConfig(task_type="SEQ_CLS", **options)
    adapted = get_peft_model(plain, config, adapter_name=name).eval()
    adapted.save_pretrained(Path(path) / "peft")
    if with_tokenizer:
        tiny_tokenizer().save_pretrained(Path(path) / "peft")
    return Path(path) / "peft", adapted


def logits(network, texts):
    """Return the logits [N, C] of texts from the classifier itself."""
    inputs = tiny_tokenizer()(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return network(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        ).logits
