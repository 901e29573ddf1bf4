"""Classes by name: their words and tokens, and the logits of these."""

from dataclasses import replace

import pytest
import torch
from tiny import tiny_llama, tiny_opt
from transformers import AutoModelForCausalLM, AutoTokenizer

from bayeslora.backbones.embedded import embedded_directory
from bayeslora.backbones.load import load_backbone
from bayeslora.backbones.reading import class_rows, class_words, tokens_after
from bayeslora.backbones.template import Template


def loaded(builder, folder):
    return load_backbone(str(builder(folder / "model")), dtype="float32", device="cpu")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("negative", "negative"),
        ("comp.sys.mac", "comp sys mac"),
        ("Sci/Tech", "Sci Tech"),
        ("cardDeclined", "card Declined"),
        ("LABEL_1", "LABEL 1"),
        ("3", "3"),
        ("été", "été"),
        ("!!", "!!"),
    ],
)
def test_a_class_is_called_by_the_words_in_its_name(name, words):
    assert class_words([name, "other"]) == [words, "other"]


def test_words_can_be_given():
    assert class_words(["0", "1"], {"1": "  very  good"}) == ["0", "very good"]


@pytest.mark.parametrize("builder", [tiny_llama, tiny_opt])
def test_rows_give_the_language_models_own_logits(builder, tmp_path):
    """Compare with transformers' whole model: OPT's head is the embedding, Llama's is separate."""
    host = loaded(builder, tmp_path)
    words = ["cat", "rain", "bread soup"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    ids = [host.tokenizer(word)["input_ids"] for word in words]
    assert [len(item) for item in ids] == [1, 1, 2]
    inputs = host.tokenizer(["today the dog", "snow is cold"], return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        logits = model(**inputs).logits
        states = host.model(**inputs).last_hidden_state
    expected = torch.stack([logits[..., item].mean(-1) for item in ids], -1)
    result = states @ class_rows(replace(host, template=Template("{text} is")), words).T
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("frame", "token"), [("{text}\nTopic:", " sports"), ("{text}\nTopic:\n", "sports")]
)
def test_words_are_the_tokens_that_come_after_the_template(frame, token):
    tokenizer = AutoTokenizer.from_pretrained(embedded_directory("smollm2-135m"))
    ids = tokens_after(tokenizer, Template(frame), "sports")
    assert tokenizer.convert_ids_to_tokens(ids) == tokenizer.tokenize(token)
