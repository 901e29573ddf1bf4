"""Texts in a template: tokenised as one string, and truncated without loss of the frame."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused
from tiny import tiny_llama

from bayeslora.backbones.embedded import embedded_directory
from bayeslora.backbones.load import load_backbone
from bayeslora.backbones.template import Template
from bayeslora.backbones.tokens import tokenise


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """Return a tiny model with the subword tokenizer of a real model."""
    from transformers import AutoTokenizer

    model = tiny_llama(tmp_path_factory.mktemp("template") / "model")
    backbone = load_backbone(str(model), dtype="float32", device="cpu")
    backbone.model.resize_token_embeddings(49_152)
    return replace(
        backbone, tokenizer=AutoTokenizer.from_pretrained(embedded_directory("smollm2-135m"))
    )


def read(host, frame, texts, pairs=None, *, max_length=64):
    host = replace(host, template=Template(frame))
    return tokenise(host, texts, pairs, max_length=max_length)


def test_a_filled_template_is_tokenised_as_one_string(host):
    result = read(host, "Review: {text}\nSentiment:", ["a fine film", "dull "])
    whole = ["Review: a fine film\nSentiment:", "Review: dull \nSentiment:"]
    assert [item.tolist() for item in result.ids] == host.tokenizer(whole)["input_ids"]
    assert result.num_truncated == 0
    assert host.tokenizer.decode(result.ids[0]) == whole[0]


def test_what_stands_in_a_text_is_no_placeholder(host):
    result = read(host, "{text}|{text_pair}|", ["{text_pair}{text}"], ["{text}"])
    assert host.tokenizer.decode(result.ids[0]) == "{text_pair}{text}|{text}|"


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text(max_size=60), min_size=1, max_size=4),
    room=st.integers(1, 12),
    pairs=st.booleans(),
)
def test_the_frame_survives_every_truncation(host, texts, room, pairs):
    tokenizer = host.tokenizer
    frame = "Text: {text}\n{text_pair}\nClass:" if pairs else "Text: {text}\nClass:"
    limit = len(tokenizer(frame.replace("{text}", "").replace("{text_pair}", ""))["input_ids"])
    limit += room
    second = texts[::-1] if pairs else None
    result = read(host, frame, texts, second, max_length=limit)
    for place, ids in enumerate(result.ids):
        assert len(ids) <= limit
        shown = tokenizer.decode(ids)
        assert shown.startswith("Text:")
        assert shown.endswith("\nClass:")
        whole = frame.format(text=texts[place], text_pair=second[place] if pairs else "")
        long = len(tokenizer(whole)["input_ids"]) > limit
        assert long or ids.tolist() == tokenizer(whole)["input_ids"]
    lengths = [
        len(tokenizer(frame.replace("{text}", text))["input_ids"]) for text in texts if not pairs
    ]
    if not pairs:
        assert result.num_truncated == sum(length > limit for length in lengths)


@pytest.mark.parametrize(
    "frame", ["Topic:", "{text} {text}", "{text}{text_pair}{text_pair}", "{text} {label}", "", None]
)
def test_bad_templates_are_refused(frame):
    with refused("input", "template"):
        Template(frame)


def test_a_template_leaves_room_for_a_text(host):
    frame = "one two three four five six: {text}"
    with refused("input", "template"):
        read(host, frame, ["a"], max_length=5)
