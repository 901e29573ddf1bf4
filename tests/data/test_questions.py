"""Questions with options: detected by their columns, checked, and compared with their options."""

import json

import numpy as np
import pytest

from bayeslora.data.examples import (
    class_names,
    encode_labels,
    joined,
    without_duplicates,
    without_overlap,
)
from bayeslora.data.formats import Reading
from bayeslora.data.questions import with_shuffled_options
from bayeslora.data.read import read
from tests.data.test_readers import message

ROWS = [
    {"question": "Which is red?", "choices": ["sky", "blood", "grass"], "answer": 1},
    {"question": "Which is green?", "choices": ["grass", "sky"], "answer": "A"},
    {"question": "Which is blue?", "choices": ["grass", "sky"], "answer": "sky"},
    {"question": "Which is dark?", "choices": ["night", "day", "sun", "fire"]},
]


AS_QUESTIONS = Reading(kind="multiple-choice")


def written(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_they_are_found_by_their_columns(tmp_path):
    examples = read(written(tmp_path / "q.jsonl"))
    assert examples.choices == tuple(tuple(row["choices"]) for row in ROWS)
    assert examples.labels == ("B", "A", "B", None)
    assert (examples.pairs, examples.history) == (None, None)
    assert class_names(examples) == ("A", "B", "C", "D")
    assert encode_labels(examples, "ABCD").tolist() == [1, 0, 1, -1]
    assert read(ROWS, reading=AS_QUESTIONS).labels == examples.labels


def test_letters_of_all_options_are_classes_whatever_is_right():
    rows = [{"question": "q", "choices": ["x", "y", "z"], "answer": 0}] * 2
    assert class_names(read(rows)) == ("A", "B", "C")


def test_shuffled_options_keep_their_answers():
    rows = read([*ROWS, *[ROWS[0] | {"question": f"{n}"} for n in range(300)]])
    shuffled = with_shuffled_options(rows, 7)
    assert shuffled == with_shuffled_options(rows, 7) != with_shuffled_options(rows, 8)
    assert shuffled.texts == rows.texts
    assert shuffled.labels[3] is None
    for before, after, letters in zip(
        rows.choices, shuffled.choices, zip(rows.labels, shuffled.labels, strict=True), strict=True
    ):
        assert sorted(after) == sorted(before)
        if letters[0] is not None:
            assert after["ABCD".index(letters[1])] == before["ABCD".index(letters[0])]
    counts = [shuffled.labels[4:].count(letter) for letter in "ABC"]
    # The variance of a count is 300 · 1/3 · 2/3.
    np.testing.assert_allclose(counts, 100, atol=4 * 200**0.5 / 3**0.5)


@pytest.mark.parametrize("named", [("answer_index", 1), ("answer", "b"), ("answer", "y")])
def test_spellings_of_the_answer(named):
    name, value = named
    examples = read([{"question": "q", "choices": ["x", "y"], name: value}])
    assert examples.labels == ("B",)
    assert examples.label_column == name


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_tables_of_text_have_a_column_for_each_option(tmp_path, suffix):
    sign = {"csv": ",", "tsv": "\t"}[suffix]
    lines = [
        ["question", "choice_1", "choice_3", "choice_2", "answer", "passage"],
        ["one", "x", "", "y", "1", ""],
        ["two", "x", "z", "y", "C", "It is said."],
        ["three", "8", "2", "4", "4", ""],
        ["four", "x", "", "y", "", ""],
    ]
    path = tmp_path / f"q.{suffix}"
    path.write_text("\n".join(sign.join(line) for line in lines) + "\n")
    examples = read(path)
    assert examples.choices == (("x", "y"), ("x", "y", "z"), ("8", "4", "2"), ("x", "y"))
    assert examples.labels == ("B", "C", "B", None)
    assert examples.pairs == ("", "It is said.", "", "")
    assert "index" in message(written_csv(tmp_path, "3,2,1,1"))
    assert "'choice_1'" in message(written_csv(tmp_path, "x,,y,0"))


def written_csv(folder, row):
    path = folder / "bad.csv"
    path.write_text(f"question,choice_1,choice_2,choice_3,answer\nq,{row}\n")
    return path


def test_a_column_of_lists_in_a_csv_is_json(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text('question,choices,answer\nq,"[""x"", ""y""]",y\n')
    assert read(path).choices == (("x", "y"),)


def test_items_that_came_before():
    row = {"history": ["a film", "b film"], "candidates": ["c", "d", "e"], "answer": "e"}
    examples = read([row, {**row, "history": ["c"]}])
    assert examples.texts == ("a film\nb film", "c")
    assert examples.history == (("a film", "b film"), ("c",))
    assert examples.labels == ("C", "C")
    both = read([{**row, "question": "What next?"}])
    assert (both.texts, both.history) == (("What next?",), (("a film", "b film"),))


GOOD = {"question": "q", "choices": ["x", "y"], "answer": 0}
BAD = {
    "no answer among the choices": ({**GOOD, "answer": "z"}, "answer"),
    "one choice": ({**GOOD, "choices": ["x"]}, "choices"),
    "21 choices": ({**GOOD, "choices": [str(k) for k in range(21)]}, "choices"),
    "repeated choices": ({**GOOD, "choices": ["x", "y", "x"]}, "choices"),
    "no choices": ({"question": "q", "answer": 0}, "choices"),
    "a letter beyond": ({**GOOD, "answer": "C"}, "answer"),
    "an index beyond": ({**GOOD, "answer": 2}, "answer"),
    "a negative index": ({**GOOD, "answer": -1}, "answer"),
    "a fraction": ({**GOOD, "answer": 0.5}, "answer"),
    "a truth value": ({**GOOD, "answer": True}, "answer"),
    "a blank choice": ({**GOOD, "choices": ["x", " "]}, "choices"),
    "a number as choice": ({**GOOD, "choices": ["x", 3]}, "choices"),
    "a text as choices": ({**GOOD, "choices": "x"}, "choices"),
    "a blank question": ({**GOOD, "question": " "}, "question"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named(case, tmp_path):
    row, column = BAD[case]
    text = message(written(tmp_path / "q.jsonl", [GOOD, GOOD, row]))
    assert f"q.jsonl, row 3, column '{column}'" in text


def test_answers_may_be_required():
    assert "row 4, column 'answer'" in message(ROWS, labels="required")
    bare = [{"question": "q", "choices": ["x", "y"]}]
    assert "no column 'answer'" in message(bare, labels="required")
    assert read(bare).labels == (None,)
    assert "no column 'choices'" in message([{"question": "q"}], reading=AS_QUESTIONS)


def test_other_options_make_another_question():
    base = {"question": "q", "choices": ["x", "y"], "answer": 0}
    other = {**base, "choices": ["x", "z"]}
    turned = {**base, "choices": ["y", "x"], "answer": 1}
    examples = read([base, other, base, turned])
    assert examples.duplicates == 1
    assert examples.num_texts == 3
    assert without_duplicates(examples).choices == (("x", "y"), ("x", "z"), ("y", "x"))
    assert examples.num_shared(read([base])) == 2
    assert without_overlap(examples, read([base])).labels == ("A", "B")
    assert joined([examples.take([0]), examples.take([1])]).choices == (("x", "y"), ("x", "z"))
