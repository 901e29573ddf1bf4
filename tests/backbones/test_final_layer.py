"""The final layer of a classifier: detected, misnamed, or without features."""

import pytest
import torch
from foreign_models import model
from refusal import refused
from tiny import CLASSES, tiny_tokenizer
from torch import nn
from transformers import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaForTokenClassification,
)

from bayeslora.backbones.final_layer import received
from bayeslora.backbones.sequence import load_sequence_classifier
from bayeslora.errors import InputError


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


class Averaged(BertForSequenceClassification):
    """Averages over dropout masks, which are all equal in evaluation mode."""

    def forward(self, *args, **kwargs):
        final, self.classifier = self.classifier, nn.Identity()
        output = super().forward(*args, **kwargs)
        self.classifier = final
        masked = [final(self.dropout(output.logits)) for _ in range(3)]
        output.logits = torch.stack(masked).mean(0)
        return output


class Spare(BertForSequenceClassification):
    """Has a second head that it never calls."""

    def __init__(self, config):
        super().__init__(config)
        self.spare = nn.Linear(16, config.num_labels)


def test_a_near_name_is_offered():
    with pytest.raises(InputError) as caught:
        loaded(model("roberta"), layer="classifier.out_pro")
    assert "not a linear layer with 3 outputs (did you mean 'classifier.out_proj'?)" in str(
        caught.value
    )


def test_logits_that_are_changed_after_the_layer_are_refused():
    with refused("input", "'classifier'"):
        loaded(of_class(Scaled))


def test_a_layer_with_several_inputs_a_row_is_refused():
    with refused("input", "'classifier'", "2 times"):
        loaded(of_class(Twice))


def test_a_layer_that_sees_the_same_input_again_is_read():
    assert loaded(of_class(Averaged), layer="classifier").layer == "classifier"


def test_a_layer_that_does_not_run_is_refused():
    network = of_class(Spare)
    assert loaded(network).layer == "classifier"
    with refused("input", "'spare'"):
        loaded(network, layer="spare")


def test_quantised_final_layers_are_refused():
    network = model("bert")
    network.classifier.weight = nn.Parameter(torch.ones(3, 16, dtype=torch.int8), False)
    with refused("input", "torch.int8"):
        loaded(network, layer="classifier")


def test_logits_that_are_not_finite_are_refused():
    network = model("bert")
    # The weights are finite, but their sums are not.
    network.classifier.weight.data[0] = 3e38
    with refused("input", "logits", "finite"):
        loaded(network)


def test_the_hook_is_gone_after_an_error():
    layer = nn.Linear(2, 2)
    with pytest.raises(RuntimeError):
        received(layer, "x", lambda: layer(torch.ones(3)))
    assert not layer._forward_pre_hooks


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


def test_a_plain_module_is_pointed_to_another_way():
    with refused("input", "Linear", "from_module"):
        loaded(nn.Linear(3, 2))


def test_a_regression_of_several_numbers_is_refused():
    with refused("input", "3 outputs"):
        loaded(model("bert", problem_type="regression"))


def test_class_names_can_be_given():
    assert loaded(model("bert")).classes == CLASSES
    assert loaded(model("bert"), classes=["x", "y", "z"]).classes == ("x", "y", "z")


@pytest.mark.parametrize(
    ("classes", "named"),
    [
        (["x", "y"], ("2 names", "3 outputs")),
        (["x", "y", "x"], ("['x', 'y', 'x']",)),
        (["x", " ", "y"], ("['x', ' ', 'y']",)),
        ([1, 2, 3], ("[1, 2, 3]",)),
        ("xyz", ("'xyz'",)),
    ],
)
def test_wrong_class_names_are_refused(classes, named):
    with refused("input", "classes", *named):
        loaded(model("bert"), classes=classes)


@pytest.mark.parametrize("names", [{0: "a", 1: "a", 2: "b"}, {1: "a", 2: "b", 3: "c"}])
def test_class_names_that_do_not_tell_classes_apart_are_refused(names):
    network = model("bert")
    network.config.id2label = names
    with refused("input", "classes"):
        loaded(network)
    assert loaded(network, classes=["x", "y", "z"]).classes == ("x", "y", "z")
