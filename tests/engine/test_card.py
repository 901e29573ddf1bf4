"""The model card: measured numbers, names that cannot break out of it, and what methods are."""

import pytest
import yaml

from bayeslora import VBLL
from bayeslora.adapters.polar import PoLAR
from bayeslora.checkpoint import ModelRecord
from bayeslora.engine.card import method_notes, model_card

HOSTILE = [
    "`code`",
    "a\nb",
    "\n---\ntags: [mine]\n---\n# Title",
    "<script>alert(1)</script>",
    "](https://example.org)",
    "| a | b |",
    "${{ 7 * 7 }}",
    "größe 😀",
]


def record(**changes):
    values = {
        "backbone": {
            "name": "smollm2-135m",
            "fingerprint": "f",
            "kind": "adapted",
            "dtype": "auto",
        },
        "adapter": {"name": "polar", "r": 8},
        "posterior": {"name": "vbll"},
        "classes": ["a", "b"],
        "columns": {"text": "text", "label": "label", "pair": None},
        "max_length": 64,
        "seed": 5,
        "num_train": 640,
        "results": {
            "history": [
                {"epoch": 1, "validation_nll": 0.9, "validation_accuracy": 0.5},
                {"epoch": 2, "validation_nll": 0.41234, "validation_accuracy": 0.875},
            ],
            "best_epoch": 2,
            "validation_nll": 0.39876,
            "validation_accuracy": 0.9,
            "posterior": {"prior_scale": 4.0, "elbo": -0.512345, "polished": "no"},
            "adapter": {"stable_rank": 2.345, "drift": 1.2e-7},
        },
        "versions": {"python": "3.11.7", "bayeslora": "0.1"},
    }
    return ModelRecord(**values | changes)


def front_matter(card):
    _, head, _ = card.split("---\n", 2)
    return yaml.safe_load(head)


def test_measured_numbers():
    card = model_card(record(), "abc123")
    for part in (
        "# Text classifier: polar + vbll on `smollm2-135m`",
        "Sorts texts into 2 classes: `a`, `b`.",
        "fitted to 640 training rows",
        "Validation: NLL 0.399 nats, accuracy 0.900. Epoch 2 was chosen on these rows",
        "- prior scale: 4",
        "- elbo: -0.5123",
        "- polished: no",
        "- adapter stable rank: 2.35",
        "- python 3.11.7, bayeslora 0.1",
        "- seed 5, at most 64 tokens per text",
        "- fingerprint `abc123`",
        'from_pretrained("this-directory")',
    ):
        assert part in card


@pytest.mark.parametrize("name", HOSTILE)
def test_names_stay_inside_their_code_spans(name):
    card = model_card(
        record(
            classes=["a", name],
            backbone={"name": name, "fingerprint": "f", "kind": "adapted", "dtype": "auto"},
        ),
        "abc123",
    )
    assert front_matter(card) == {
        "library_name": "bayeslora",
        "pipeline_tag": "text-classification",
        "base_model": name,
        "tags": ["uncertainty", "calibration"],
    }
    plain = front_matter(model_card(record(), "abc123"))
    assert front_matter(card).keys() == plain.keys()
    body = card.split("---\n", 2)[2]
    inside = " ".join(name.replace("`", "'").split())
    assert f"`{inside}`" in body
    # Outside code spans the card is the same as with harmless names.
    harmless = model_card(record(), "abc123").split("---\n", 2)[2]
    assert body.replace(f"`{inside}`", "").count("\n") == harmless.count("\n")
    outside = body.replace(f"`{inside}`", "``")
    assert outside == harmless.replace("`smollm2-135m`", "``").replace("`b`", "``")


def test_scores_before_and_after_calibration():
    ends = {"low": 0.0, "high": 1.0}
    score = {"before": {"value": 0.7128, **ends}, "after": {"value": 0.4251, **ends}}
    card = model_card(record(results={"validation": {"nll": score, "ece": score}}), "abc123")
    assert "0.713 before calibration, 0.425 after (chosen on these rows)" in card


def test_a_method_is_named_described_and_cited():
    notes = method_notes(record())
    assert notes == {
        "adapter": "polar",
        "adapter_summary": PoLAR.summary,
        "posterior": "vbll",
        "posterior_summary": VBLL.summary,
        "sources": f"{PoLAR.source}; {VBLL.source}",
    }
