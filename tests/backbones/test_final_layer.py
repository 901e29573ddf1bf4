"""The final layer of a classifier: detected, misnamed, or without features."""

import pytest
from foreign_models import model
from refusal import refused
from tiny import tiny_tokenizer
from transformers import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaForTokenClassification,
)

from bayeslora.backbones.sequence import load_sequence_classifier


def loaded(source, **options):
    return load_sequence_classifier(source, device="cpu", tokenizer=tiny_tokenizer(), **options)


def of_class(kind, family="bert"):
    network = model(family)
    other = kind(network.config)
    other.load_state_dict(network.state_dict(), strict=False)
    return other.eval()


class Scaled(BertForSequenceClassification):
    """Divides its logits by a temperature, after the final layer."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits / 2
        return output


class Twice(BertForSequenceClassification):
    """Calls its final layer on two inputs."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits + self.classifier(output.logits.new_ones(1, 16))
        return output


def test_logits_that_are_changed_after_the_layer_are_refused():
    with refused("input", "'classifier'"):
        loaded(of_class(Scaled))


def test_a_layer_with_several_inputs_a_row_is_refused():
    with refused("input", "'classifier'", "2 times"):
        loaded(of_class(Twice))


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        (BertForTokenClassification, "bert"),
        (LlamaForTokenClassification, "llama"),
        (BertForQuestionAnswering, "bert"),
    ],
)
def test_other_heads_are_refused(tmp_path, kind, family):
    """Llama's token classifier stores its weights under the names of the text classifier."""
    network = of_class(kind, family)
    network.name_or_path = ""
    network.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    for source in (network, str(tmp_path)):
        with refused("input", kind.__name__):
            loaded(source)


@pytest.mark.parametrize(
    ("classes", "named"),
    [
        (["x", "y"], ("2 names", "3 outputs")),
        (["x", "y", "x"], ("['x', 'y', 'x']",)),
        ("xyz", ("xyz",)),
    ],
)
def test_wrong_class_names_are_refused(classes, named):
    with refused("input", "classes", *named):
        loaded(model("bert"), classes=classes)
