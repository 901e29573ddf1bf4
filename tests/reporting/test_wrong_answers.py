"""The most confident errors, the method cards, and identifiers of inputs and runs."""

import numpy as np
import pytest
from refusal import refused

from bayeslora.predictions.collection import check_column, gather
from bayeslora.predictions.record import Predictions
from bayeslora.reporting.assess import Evaluation, assess
from bayeslora.reporting.report import report
from bayeslora.reporting.run_record import (
    UNKNOWN,
    content_hash,
    method_card,
    python_call,
)
from bayeslora.reporting.wrong_answers import BEGINNING, LONGEST, MOST, wrong_answers

pytestmark = pytest.mark.usefixtures("blank_figures")


def assessed(*items):
    options = {"num_bins": 15, "num_resamples": 5, "seed": 0}
    return assess(gather(list(items)), Evaluation(**options))


def test_examples_are_the_most_confident_errors(make):
    texts = tuple(f"text of row {index}" for index in range(240))
    method = make("m", columns={"text": texts})
    [_, errors] = wrong_answers(assessed(method), "text")
    wrong = np.flatnonzero(method.prediction != method.labels)
    surest = sorted(wrong, key=lambda row: -method.confidence[row])[:MOST]
    assert [example.row for example in errors.blocks] == [f"row-{row}" for row in surest]
    assert [example.text for example in errors.blocks] == [texts[row] for row in surest]
    row, first = surest[0], errors.blocks[0]
    assert first.predicted == method.classes[method.prediction[row]]
    assert first.label == method.classes[method.labels[row]]
    assert first.confidence == f"{100 * method.confidence[row]:.1f}\N{NO-BREAK SPACE}%"
    assert f"{len(wrong)} of 240 labelled examples wrong; the 10 most" in errors.summary


def test_the_best_method_comes_first_and_texts_may_be_missing(make):
    bare = make("mle", sharpness=3.0, ids=None)
    some = make("good", columns={"text": [None] * 240})
    _, *results = wrong_answers(assessed(bare, some, make("none", labelled=False)), "text")
    assert ["good" in result.summary for result in results] == [True, False]
    assert all(not example.text for result in results for example in result.blocks)
    assert results[1].blocks[0].row.startswith("row ")


def test_nothing_wrong_is_said_to_be_nothing(make):
    labels = np.zeros(30, dtype=int)
    right = make("m", rows=30, labels=labels, probs=np.eye(4)[labels])
    [_, errors] = wrong_answers(assessed(right), "text")
    assert errors.summary == "\u2068m\u2069: 0 of 30 labelled examples wrong"
    assert errors.blocks == ()


def test_long_texts_are_shortened_and_longest_are_cut(make):
    long = "word " * 200
    endless = "x" * (LONGEST + 5)
    texts = [long, endless, "\u202eshort\n\n text "] * 80
    [_, errors] = wrong_answers(assessed(make("m", columns={"text": texts})), "text")
    kinds = {example.length: example for example in errors.blocks}
    assert set(kinds) == {"", "999 characters", "the first 20,000 of 20,005 characters"}
    assert kinds[""].text == "\\u202eshort text"
    assert kinds["999 characters"].rest == long.strip()
    assert len(kinds["999 characters"].text) <= BEGINNING + 1
    assert len(kinds["the first 20,000 of 20,005 characters"].rest) == LONGEST


@pytest.fixture
def file(make, tmp_path):
    path = tmp_path / "a.parquet"
    columns = {"text": ["secret words"] * 240, "note": ["a remark"] * 240}
    make("m", columns=columns).save(path)
    return path


def page_of(file, tmp_path, **options):
    written = report(file, out=tmp_path / "report", num_resamples=5, overwrite=True, **options)
    return written.read_text(encoding="utf-8")


def test_texts_enter_the_page_from_files_unless_told_not_to(file, tmp_path):
    page = page_of(file, tmp_path)
    assert "secret words" in page
    assert "a remark" not in page
    page = page_of(file, tmp_path, example_column="note")
    assert "a remark" in page
    assert "secret words" not in page
    page = page_of(file, tmp_path, examples=False)
    assert "secret words" not in page
    assert "Most confidently wrong" not in page


def test_a_column_that_is_not_there_is_named(file, make):
    with refused("unknown", "'texts'", "'note', 'text'"):
        check_column(gather(file, columns=["texts"]), "texts")
    with refused("input", "'text'"):
        check_column(gather(make("m"), columns=["text"]), "text")


def test_cards_say_what_the_metadata_say(make):
    notes = {
        "adapter": "polar",
        "posterior": "theirs",
        "posterior_summary": "a Gaussian of theirs",
        "passes": "20",
        "sources": "They 2026",
        "link": "softmax",
        "num_samples": "20",
        "seed": "3",
        "fit_seed": "4",
        "recalibration": "temperature",
        "recalibration_rows": "200",
        "prior_share": "0.412",
    }
    [card] = map(method_card, assessed(make("m", metadata=notes)))
    rows = dict(card.rows)
    assert card.summary == "polar with theirs (a Gaussian of theirs)"
    assert rows["passes of the adapted layers"] == rows["draws"] == "20"
    assert rows["from logits to probabilities"] == "softmax of each pass, averaged"
    assert "0.412" in rows["prior"]
    assert rows["recalibrated"].startswith("temperature (")
    assert rows["recalibrated"].endswith("fitted to 200 examples")
    assert rows["seeds"] == "fit 4, prediction 3"
    assert rows["sources"].startswith("They 2026; Guo")


@pytest.mark.parametrize(
    ("link", "passes", "words"),
    [
        ("mc", "1", "softmax"),
        ("mc", "5", "softmax of each pass"),
        ("probit", "1", "probit approximation of the mean of softmax"),
    ],
)
def test_a_card_without_draws_does_not_speak_of_them(make, link, passes, words):
    notes = {"posterior": "mle", "link": link, "num_samples": "0", "passes": passes}
    [card] = map(method_card, assessed(make("m", metadata=notes)))
    assert dict(card.rows)["from logits to probabilities"].partition(",")[0] == words


@pytest.mark.parametrize(
    "notes",
    [
        {},
        {
            "posterior": "theirs",
            "num_samples": "9" * 5000,
            "link": "x" * 500,
            "sources": "y" * 5000,
            "posterior_summary": "z" * 5000,
        },
    ],
)
def test_cards_of_foreign_files_guess_nothing(make, notes):
    [card] = map(method_card, assessed(make("m", metadata=notes)))
    assert card.summary.startswith("theirs (zzz") if notes else card.summary == UNKNOWN
    assert all(len(text) <= 400 for text in (card.summary, *dict(card.rows).values()))
    assert ("sources" in dict(card.rows)) == bool(notes)


def test_the_hash_of_a_record_is_that_of_its_content(make):
    first = content_hash(make("m"))
    assert first == content_hash(make("other name"))
    assert first != content_hash(make("m", seed=1))
    assert first != content_hash(make("m", scores={"extra": np.zeros(240)}))
    assert first != content_hash(make("m", classes=("b", "a", "c", "d")))


def test_the_call_makes_the_report_again(file, make, tmp_path):
    call = python_call(gather(file), out=str(tmp_path / "again"), num_resamples=5, ood_score=None)
    assert "ood_score" not in call
    import bayeslora

    page = eval(call, {"bayeslora": bayeslora})
    assert page == tmp_path / "again" / "index.html"
    assert python_call(gather([file, make("m")])) == ""
    text = page.read_text(encoding="utf-8")
    assert "command to repeat it" in text
    assert Predictions.load(file).name == "m"


def test_questions_are_shown_with_their_options():
    predictions = Predictions(
        [[0.7, 0.2, 0.1], [0.4, 0.6, 0.0], [0.9, 0.05, 0.05]],
        "ABC",
        labels=[1, 0, 0],
        name="m",
        available=[[True] * 3, [True, True, False], [True] * 3],
        columns={
            "question": ["one?", "two?", "three?"],
            "context": ["a passage", None, None],
            "choices": ['["x", "y", "<b>z</b>"]', '["v", "w"]', "[]"],
        },
    )
    [_, errors] = wrong_answers(assessed(predictions), "text")
    first, second = errors.blocks
    assert first.text == "one? — a passage"
    assert [(name, text) for name, text, _ in first.options] == [
        ("A", "x"),
        ("B", "y"),
        ("C", "<b>z</b>"),
    ]
    assert first.options[0][2] == first.confidence
    assert second.text == "two?"
    assert [name for name, *_ in second.options] == ["A", "B"]


def test_the_page_has_questions_of_files(make, tmp_path):
    columns = {
        "question": ["which of these?"] * 240,
        "choices": ['["un", "deux", "<i>trois", "quatre"]'] * 240,
    }
    make("m", columns=columns).save(tmp_path / "a.parquet")
    for name, examples in (("r", True), ("b", False)):
        report(tmp_path / "a.parquet", out=tmp_path / name, num_resamples=5, examples=examples)
    page = (tmp_path / "r" / "index.html").read_text()
    assert "which of these?" in page
    assert "&lt;i&gt;trois" in page
    assert "which of these?" not in (tmp_path / "b" / "index.html").read_text()


@pytest.mark.parametrize("choices", [None, "", "x", "{}", '["a"]', "[" * 5000])
def test_options_that_cannot_be_read_are_left_out(choices):
    columns = {"question": ["q"], "choices": [choices]}
    predictions = Predictions([[0.7, 0.3]], "AB", labels=[1], name="m", columns=columns)
    [_, errors] = wrong_answers(assessed(predictions), "text")
    assert errors.blocks[0].options == ()
