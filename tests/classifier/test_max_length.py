"""Texts are truncated to the backbone's positions: longer limits are errors, notes are correct."""

import logging

import pytest
from foreign_models import saved
from tiny import SIZES

import bayeslora as bl
from bayeslora import MLE
from bayeslora.backbones.load import load_backbone
from bayeslora.backbones.tokens import position_limit

LIMIT = SIZES["max_position_embeddings"]


def limit_of(family, tmp_path):
    """Return the limit of a classifier's backbone with random weights."""
    return position_limit(load_backbone(str(saved(family, tmp_path / family)), dtype="float32"))


@pytest.mark.parametrize(
    ("family", "reserved"),
    [("bert", 0), ("llama", 0), ("gpt2", 0), ("roberta", 1), ("xlnet", None)],
)
def test_the_limit_is_that_of_the_positions(tmp_path, family, reserved):
    limit = limit_of(family, tmp_path)
    assert limit == (None if reserved is None else LIMIT - reserved)


def test_the_note_names_the_length_that_was_kept(foreign, caplog):
    """The default is longer than the positions of these models."""
    clf = bl.BayesianClassifier.from_transformers(foreign, MLE(), progress=False)
    long = " ".join(["cat"] * (LIMIT + 10))
    with caplog.at_level(logging.WARNING):
        clf.predict([long, "cat"])
    assert f"longer than {LIMIT} tokens" in caplog.text
    assert clf.record.max_length == LIMIT
