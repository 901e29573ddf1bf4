"""Examples: class names, codes and duplicates."""

from dataclasses import replace

import numpy as np
import pytest
from refusal import refused

from bayeslora.data.examples import (
    Examples,
    class_names,
    encode_labels,
    union,
    without_duplicates,
    without_overlap,
)
from bayeslora.errors import InputError


def make(labels, texts=None, pairs=None, rows=None):
    size = len(labels)
    return Examples(
        ids=tuple(f"id{i}" for i in range(size)),
        texts=tuple(texts or [f"text {i}" for i in range(size)]),
        pairs=pairs,
        labels=tuple(labels),
        rows=tuple(rows or range(2, size + 2)),
        source="data.csv",
    )


def message(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def test_strings_are_sorted_and_integers_are_in_numeric_order():
    assert class_names(make(["b", "a", None, "b"])) == ("a", "b")
    assert class_names(make([10, 9, -1, None])) == ("-1", "9", "10")
    assert class_names(make(["10", "9"])) == ("10", "9")


@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        (["spam", "spam"], ["data.csv", "'label'", "'spam'", "two classes"]),
        ([None, None], ["no row has a label"]),
        (["x", 3, "y"], ["row 3 has the integer label 3", "row 2 has the string 'x'"]),
    ],
)
def test_labels_that_make_no_classes_are_refused(labels, parts):
    text = message(class_names, make(labels))
    assert all(part in text for part in parts)


def test_codes_are_positions_among_the_classes():
    codes = encode_labels(make(["b", None, "a", "b"]), ("a", "b"))
    assert codes.dtype == np.int64
    assert codes.tolist() == [1, -1, 0, 1]
    assert encode_labels(make([10, 9]), ("9", "10")).tolist() == [1, 0]


def test_an_unknown_label_is_named_with_what_is_allowed():
    text = message(encode_labels, make(["sport", None, "politcs"]), ("politics", "sport"))
    for part in ("data.csv", "row 4", "column 'label'", "'politcs'"):
        assert part in text
    assert text.endswith("the classes are 'politics', 'sport'")


def test_unknown_labels_can_be_kept_as_out_of_distribution():
    codes = encode_labels(make(["a", "oos", None]), ("a", "b"), unknown="ood")
    assert codes.tolist() == [0, -1, -1]


def test_repeats_are_equal_in_text_second_text_and_label():
    examples = make(["a", "a", "b", "a"], texts=["x", "x", "x", "x"], pairs=("p", "p", "p", "q"))
    assert examples.duplicates == 1
    assert without_duplicates(examples).ids == ("id0", "id2", "id3")


def test_overlap_disregards_the_label_but_not_the_second_text():
    train = make(["a", "a", "b"], texts=["x", "y", "z"])
    test = make(["b", "b"], texts=["x", "w"])
    assert without_overlap(train, test).texts == ("y", "z")
    paired = make(["a"], texts=["x"], pairs=("p",))
    assert len(without_overlap(paired, test)) == 1
    assert len(without_overlap(paired, make(["b"], texts=["x"], pairs=("p",)))) == 0


def test_take_keeps_every_field_in_step():
    examples = make(["a", "b", "c"], pairs=("p", "q", "r"))
    taken = examples.take(np.array([2, 0]))
    assert taken.ids == ("id2", "id0")
    assert taken.texts == ("text 2", "text 0")
    assert taken.pairs == ("r", "p")
    assert taken.labels == ("c", "a")
    assert taken.rows == (4, 2)
    assert taken.source == "data.csv"


def test_tasks_of_images_and_of_texts_do_not_mix():
    texts = make(["x", "y"])
    images = replace(texts, images=True)
    with refused("input", "'pictures'"):
        union({"pictures": images, "tone": texts}, None)
