"""Options of a question in one sequence: each as if it were alone, and the language model's own
answer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_bert, tiny_llama, tiny_opt, toy_rows
from transformers import AutoModelForCausalLM

from bayeslora.backbones.encoder import Encoder, with_letters
from bayeslora.backbones.load import load_backbone
from bayeslora.backbones.options import OptionsEncoder
from bayeslora.backbones.template import Template
from bayeslora.foreign import find_layers
from bayeslora.logits import ABSENT

WORDS = [row["text"] for row in toy_rows(20, seed=3)]
QUESTIONS = WORDS[:4]
CHOICES = [
    ["cat", "bread soup", "rain"],
    ["snow", "dog"],
    ["the cold", "a fish", "rice"],
    WORDS[4:6],
]
AVAILABLE = np.array([[True, True, len(row) > 2] for row in CHOICES])


def loaded(builder, folder, **options):
    return load_backbone(str(builder(folder / "model", **options)), dtype="float32", device="cpu")


def options_encoder(backbone, start=0, max_length=48, **options):
    path, _ = find_layers(backbone.model)
    return OptionsEncoder(
        backbone, layers_path=path, start=start, max_length=max_length, **options
    ).eval()


def prepared(encoder, rows=range(4), **options):
    chosen = list(rows)
    return encoder.prepare(
        [QUESTIONS[row] for row in chosen],
        choices=[CHOICES[row] for row in chosen],
        available=AVAILABLE[chosen],
        **options,
    )


def alone(backbone, question, option):
    """Return the model's own states [T, d] and ids of a question with one option."""
    tokenizer = backbone.tokenizer
    if backbone.kind == "encoder":
        inputs = tokenizer(question, option, return_tensors="pt")
        return backbone.model(**inputs).last_hidden_state[0], inputs["input_ids"][0], 0
    frame = backbone.template or Template("Question: {text}\nAnswer:")
    prompt = tokenizer(frame.filled(question).whole)["input_ids"]
    ids = prompt + tokenizer(f" {option}", add_special_tokens=False)["input_ids"]
    states = backbone.model(torch.tensor([ids])).last_hidden_state[0]
    return states, torch.tensor(ids), len(prompt)


@torch.no_grad()
@pytest.mark.parametrize("builder", [tiny_llama, tiny_opt, tiny_bert])
@pytest.mark.parametrize("start", [0, 2])
def test_an_option_has_the_features_that_it_has_alone(builder, start, tmp_path):
    backbone = loaded(builder, tmp_path)
    encoder = options_encoder(backbone, start)
    result = encoder.features(prepared(encoder))
    assert torch.equal(result[..., -1] == ABSENT, torch.from_numpy(~AVAILABLE))
    for row, options in enumerate(CHOICES):
        states = [alone(backbone, QUESTIONS[row], option)[0] for option in options]
        if backbone.kind == "decoder":
            features = torch.stack([hidden[-1] for hidden in states])
        else:
            features = torch.stack([hidden.mean(0) for hidden in states])
        width = backbone.num_features
        expected = features - features.mean(0)
        torch.testing.assert_close(result[row, : len(options), :width], expected)
        assert not result[row, len(options) :, :-1].any()


@torch.no_grad()
def test_the_last_feature_is_the_language_models_log_likelihood(tmp_path):
    backbone = loaded(tiny_llama, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    encoder = options_encoder(backbone)
    result = encoder.features(prepared(encoder))[..., -2]
    for row, options in enumerate(CHOICES):
        expected = []
        for option in options:
            _, ids, start = alone(backbone, QUESTIONS[row], option)
            logs = model(ids[None]).logits[0].log_softmax(-1)
            token_logs = logs[torch.arange(start - 1, len(ids) - 1), ids[start:]]
            expected.append(token_logs.mean())
        expected = torch.stack(expected)
        torch.testing.assert_close(result[row, : len(options)], expected - expected.mean())


@torch.no_grad()
@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("context", [None, "a storm"])
def test_an_option_in_a_blank_is_as_likely_as_it_makes_what_follows(start, context, tmp_path):
    """Compare with log p(rest | sentence up to the blank, with the option) per token, by hand."""
    backbone = loaded(tiny_llama, tmp_path)
    frame = "here {filled}" if context is None else "{text_pair} here {filled}"
    encoder = options_encoder(replace(backbone, template=Template(frame)), start)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    questions = ["the cat _ the bread today", "a dog is _", "was it cold"]
    choices = [["barks", "swims on", "in"], ["wet", "very warm"], ["rain", "snow"]]
    texts = encoder.prepare(questions, None if context is None else [context] * 3, choices=choices)
    result = encoder.features(texts)
    for row, (question, options) in enumerate(zip(questions, choices, strict=True)):
        before, _, after = question.partition(" _")
        begin = f"here {before}" if context is None else f"{context} here {before}"
        likely, features = [], []
        for option in options:
            filled = backbone.tokenizer(f"{begin} {option}{after}", return_tensors="pt")
            ids = filled["input_ids"]
            prompt = f"{begin} {option}" if after else begin
            start_of_rest = len(backbone.tokenizer(prompt)["input_ids"])
            places = torch.arange(start_of_rest, ids.shape[1])
            logs = model(ids).logits[0].log_softmax(-1)
            likely.append(logs[places - 1, ids[0, places]].mean())
            features.append(backbone.model(ids).last_hidden_state[0, -1])
        likely, features = torch.stack(likely), torch.stack(features)
        count, width = len(options), backbone.num_features
        torch.testing.assert_close(result[row, :count, -2], likely - likely.mean())
        torch.testing.assert_close(result[row, :count, :width], features - features.mean(0))


@torch.no_grad()
@pytest.mark.parametrize("start", [0, 2])
def test_a_batch_of_questions_is_question_by_question(start, tmp_path):
    encoder = options_encoder(loaded(tiny_llama, tmp_path), start)
    together = encoder.features(prepared(encoder))
    for row in range(4):
        torch.testing.assert_close(encoder.features(prepared(encoder, [row]))[0], together[row])
    some = prepared(encoder).take([2, 0])
    torch.testing.assert_close(encoder.features(some), together[[2, 0]])


def test_gradients_reach_the_states_of_options(tmp_path):
    encoder = options_encoder(loaded(tiny_llama, tmp_path), 2)
    table = encoder.model.layers[2].self_attn.q_proj.weight.requires_grad_()
    result = encoder(prepared(encoder).collate(range(4)))
    for column in (slice(0, 16), slice(16, 17)):
        (gradient,) = torch.autograd.grad(
            result[..., column].square().sum(), table, retain_graph=True
        )
        assert gradient.abs().sum() > 0


@torch.no_grad()
def test_a_long_context_is_cut_before_the_question_and_the_options(tmp_path):
    backbone = loaded(tiny_llama, tmp_path)
    encoder = options_encoder(backbone, max_length=24)
    long = " ".join(WORDS)
    texts = encoder.prepare([QUESTIONS[0]], [long], choices=[CHOICES[0]])
    assert texts.tokens.num_truncated == 1
    ids = texts.tokens.ids[0]
    groups = texts.tokens.groups[0]
    text = backbone.tokenizer.decode(ids[groups == 0])
    assert QUESTIONS[0] in text
    assert (groups == 0).sum() + max(np.bincount(groups)[1:]) <= 24


@torch.no_grad()
@pytest.mark.parametrize("builder", [tiny_llama, tiny_bert])
def test_a_row_with_a_cut_option_counts_as_truncated(builder, tmp_path):
    encoder = options_encoder(loaded(builder, tmp_path), max_length=24)
    long = " ".join(WORDS)
    texts = encoder.prepare(["was it cold"] * 3, choices=[["yes", long], ["yes", "no"], [long] * 2])
    assert texts.tokens.num_truncated == 2


@torch.no_grad()
def test_letters_stand_before_the_options_in_the_prompt(tmp_path):
    backbone = loaded(tiny_llama, tmp_path)
    path, _ = find_layers(backbone.model)
    encoder = Encoder(backbone, layers_path=path, start=0, max_length=48).eval()
    result = encoder.features(prepared(encoder))
    assert result.shape == (4, 16 + 3)
    assert torch.equal(result[:, 16:] == ABSENT, torch.from_numpy(~AVAILABLE))
    plain = [with_letters(*row) for row in zip(QUESTIONS, CHOICES, strict=True)]
    assert plain[1].splitlines() == [f"Question: {QUESTIONS[1]}", "A) snow", "B) dog"]
    torch.testing.assert_close(encoder.features(encoder.prepare(plain)), result[:, :16])
