"""Damaged, mixed-up and hostile model directories; none may end in a traceback.

Each case is a function that spoils a directory in place. `CASES` groups them by kind of directory.
"""

import json
import os
import pickle
import struct
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

DEEP = "[" * 100_000 + "]" * 100_000
LONG = "1" * 4301
ODD_VALUES = {
    "null": "null",
    "text": '"x"',
    "number text": '"3"',
    "negative": "-1",
    "zero": "0",
    "huge": "1000000000000",
    "long integer": LONG,
    "infinite": "1e400",
    "true": "true",
    "list": "[]",
    "nested": '[["x"]]',
    "mapping": "{}",
    "surrogate": '"\\ud800"',
}


def set_json(path, key, value):
    """Set a value of a JSON file to JSON text without parsing that text."""
    content = json.loads(path.read_text())
    content[key] = "@@"
    path.write_text(json.dumps(content).replace('"@@"', value))


def odd(name, key, value):
    return lambda folder: set_json(folder / name, key, ODD_VALUES[value])


def put(name, content):
    """Return a function that replaces a file by bytes or text."""

    def change(folder):
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def swap(name, make):
    """Return a function that replaces a file by something that is not a regular file."""

    def change(folder):
        (folder / name).unlink()
        make(folder / name)

    return change


def loop(path):
    path.symlink_to(path.name)


def tensors(name, edit):
    def change(folder):
        state = load_file(folder / name)
        edit(state)
        save_file(state, folder / name, metadata={"format": "pt"})

    return change


def header(name, text):
    """Return a function that replaces the header of a safetensors file."""
    encoded = text if isinstance(text, bytes) else text.encode()
    return put(name, struct.pack("<Q", len(encoded)) + encoded + b"\0" * 64)


class Marker:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def pickled(name, weights):
    def change(folder):
        (folder / weights).unlink()
        (folder / name).write_bytes(pickle.dumps({"weight": Marker(folder.parent / "ran")}))

    return change


def torch_file(name, weights):
    def change(folder):
        state = load_file(folder / weights)
        (folder / weights).unlink()
        torch.save(state, folder / name)

    return change


def index(**weight_map):
    """Return a function that replaces a directory's weight file by an index of weight files."""

    def change(folder):
        state = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        names = {name: weight_map.get("file", "missing.safetensors") for name in state}
        content = {"metadata": {}, "weight_map": weight_map.get("map", names)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))

    return change


def shorten(state):
    name = sorted(state)[0]
    state[name] = state[name].flatten()[:1].clone()


def spoil(state):
    state[max(state)].view(-1)[0] = float("nan")


def retype(state):
    for name in state:
        state[name] = state[name].to(torch.int64)


def lose(state):
    del state[max(state)]


def rename(state):
    for name in list(state):
        state[name + "\ue000" * 40] = state.pop(name)


def of_weights(name):
    return {
        f"{name}: empty": put(name, b""),
        f"{name}: noise": put(name, bytes(range(256)) * 8),
        f"{name}: huge header": put(name, struct.pack("<Q", 1 << 62) + b"{}"),
        f"{name}: header beyond file": put(name, struct.pack("<Q", 1 << 20) + b"{}"),
        f"{name}: header no JSON": header(name, "{"),
        f"{name}: header deep": header(name, '{"a":' + DEEP + "}"),
        f"{name}: header not UTF-8": header(name, b'{"\xff":{}}'),
        f"{name}: header list": header(name, "[]"),
        f"{name}: no tensors": header(name, "{}"),
        f"{name}: offsets": header(
            name, '{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,99999]}}'
        ),
        f"{name}: dtype": header(name, '{"a":{"dtype":"F99","shape":[4],"data_offsets":[0,16]}}'),
        f"{name}: shape": header(name, '{"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}}'),
        f"{name}: NaN": tensors(name, spoil),
        f"{name}: integers": tensors(name, retype),
        f"{name}: one short": tensors(name, shorten),
        f"{name}: one lost": tensors(name, lose),
        f"{name}: other names": tensors(name, rename),
        f"{name}: directory": swap(name, Path.mkdir),
        f"{name}: loop": swap(name, loop),
        f"{name}: nothing": swap(name, lambda path: None),
    }


def of_json(name):
    return {
        f"{name}: empty": put(name, ""),
        f"{name}: half": put(name, '{"a": '),
        f"{name}: list": put(name, "[]"),
        f"{name}: list of lists": put(name, "[[1]]"),
        f"{name}: text": put(name, '"x"'),
        f"{name}: number": put(name, "3"),
        f"{name}: null": put(name, "null"),
        f"{name}: mapping": put(name, "{}"),
        f"{name}: deep": put(name, '{"a": ' + DEEP + "}"),
        f"{name}: long integer": put(name, '{"a": ' + LONG + "}"),
        f"{name}: not UTF-8": put(name, b'{"a": "\xff\xfe"}'),
        f"{name}: BOM": put(name, b"\xef\xbb\xbf{}"),
        f"{name}: zeros": put(name, b"\0" * 100),
        f"{name}: directory": swap(name, Path.mkdir),
        f"{name}: loop": swap(name, loop),
        f"{name}: nothing": swap(name, lambda path: None),
    }


def of_values(name, keys):
    return {
        f"{name}: {key} {value}": odd(name, key, value)
        for key in keys
        for value in ODD_VALUES
        if (key, value) != ("num_hidden_layers", "huge")  # transformers would build them
    }


def of_config(more=()):
    quantised = {
        "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
        "awq": {"quant_method": "awq", "bits": 4, "group_size": 128},
        "bnb": {"quant_method": "bitsandbytes", "load_in_4bit": True},
        "fp8": {"quant_method": "fp8"},
        "unknown": {"quant_method": "magic"},
        "empty": {},
    }
    settings = {
        "hidden_act": ["nope", "Gelu"],
        "model_type": ["nope", "../llama", "t5", "vit", "clip", "whisper", "mamba"],
        "auto_map": [{"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}],
        "num_hidden_layers": [2, 4],
        "vocab_size": [3, 10**6],
        "hidden_size": [8, 15, 32],
        "num_attention_heads": [3, 5],
        "max_position_embeddings": [1, 2],
        "pad_token_id": [10**6],
        "dtype": ["nope", "int8"],
        "architectures": [["Nope"], [1]],
    }
    return {
        **{
            f"quantised: {name}": lambda folder, value=value: set_json(
                folder / "config.json", "quantization_config", json.dumps(value)
            )
            for name, value in quantised.items()
        },
        **{
            f"config.json: {key} {str(value)[:40]}": lambda folder, key=key, value=value: set_json(
                folder / "config.json", key, json.dumps(value)
            )
            for key, values in settings.items()
            for value in values
        },
        **of_values(
            "config.json",
            [
                *("model_type", "architectures", "hidden_size", "num_hidden_layers", "hidden_act"),
                *("num_attention_heads", "vocab_size", "intermediate_size", "pad_token_id"),
                *("max_position_embeddings", "dtype", "quantization_config", "auto_map"),
                *("is_encoder_decoder", "tie_word_embeddings", "_name_or_path", *more),
            ],
        ),
    }


def more_words(folder):
    """Add words beyond the embedding to the tokenizer."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {
        word: number + 1000 * (not word.startswith("[")) for word, number in vocabulary.items()
    }
    path.write_text(json.dumps(content))


def of_tokenizer():
    return {
        **of_json("tokenizer.json"),
        **of_json("tokenizer_config.json"),
        **of_values("tokenizer.json", ["model", "version", "added_tokens", "normalizer"]),
        **of_values("tokenizer.json", ["pre_tokenizer", "post_processor", "truncation"]),
        **of_values(
            "tokenizer_config.json",
            [
                *("tokenizer_class", "pad_token", "eos_token", "unk_token", "model_max_length"),
                *("added_tokens_decoder", "extra_special_tokens", "chat_template", "auto_map"),
                *("padding_side", "backend"),
            ],
        ),
        "tokenizer: words beyond the embedding": more_words,
    }


def of_peft():
    name = "adapter_config.json"
    texts = {
        "peft_type": ["NOPE", "PREFIX_TUNING", "IA3", "lora"],
        "task_type": ["NOPE", "CAUSAL_LM"],
        "base_model_name_or_path": ["", "/", ".", "..", "/nowhere", "a/b/c", "x" * 5000, "a\0b"],
        "target_modules": ["(", "[", "(?P<a>x)(?P<a>y)", "*", "nope", "(" * 5000],
        "layers_pattern": ["("],
        "exclude_modules": ["("],
        "lora_alpha": [1e308, 10**30],
        "r": [10**9],
        "lora_dropout": [2, -1],
        "rank_pattern": [{"(": 2}, {"x": "2"}, {"query": 3}, {"query": 10**12}, [1]],
        "alpha_pattern": [{"(": 2}, {"x": None}],
        "init_lora_weights": ["nope", "corda", "pissa_niter_4", 3, ["a"]],
        "modules_to_save": ["classifier", ["nope"], [1]],
        "layers_to_transform": [[0.5], "x", 99],
        "revision": ["nope", 3],
        "auto_mapping": [{"base_model_class": "evil"}],
    }
    return {
        **{
            f"{name}: {key} {str(value)[:40]}": lambda folder, key=key, value=value: set_json(
                folder / name, key, json.dumps(value)
            )
            for key, values in texts.items()
            for value in values
        },
        **of_values(name, [*texts, "bias", "use_rslora", "use_dora", "megatron_config"]),
        "pickled adapter": pickled("adapter_model.bin", "adapter_model.safetensors"),
    }


def of_backbone():
    weights = "model.safetensors"
    return {
        **of_weights(weights),
        **of_json("config.json"),
        **of_config(["rope_parameters", "rms_norm_eps", "num_key_value_heads"]),
        **of_tokenizer(),
        "pickled": pickled("pytorch_model.bin", weights),
        "torch.save": torch_file("pytorch_model.bin", weights),
        "index: outside": index(file="../outside.safetensors"),
        "index: missing": index(),
        "index: list": index(map=[]),
        "index: numbers": index(map={"a": 1}),
        "index: absolute": index(file="/etc/passwd"),
        "index: empty": index(map={}),
    }
