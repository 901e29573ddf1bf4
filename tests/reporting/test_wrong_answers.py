"""The most confident errors, the method cards, and identifiers of inputs and runs."""

import numpy as np
from refusal import refused

from bayeslora.predictions.collection import check_column, gather
from bayeslora.reporting.assess import assess
from bayeslora.reporting.document import method_card
from bayeslora.reporting.wrong_answers import MOST, wrong_answers


def assessed(*items):
    options = {"num_bins": 15, "num_resamples": 5, "seed": 0}
    return assess(gather(list(items)), options)


def test_examples_are_the_most_confident_errors(make):
    texts = tuple(f"text of row {index}" for index in range(240))
    method = make("m", columns={"text": texts})
    [_, errors] = wrong_answers(assessed(method), "text")
    [_, without] = wrong_answers(assessed(make("m")), "text")
    assert {example.text for example in without.blocks} == {""}
    wrong = np.flatnonzero(method.prediction != method.labels)
    surest = sorted(wrong, key=lambda row: -method.confidence[row])[:MOST]
    assert [example.row for example in errors.blocks] == [f"row-{row}" for row in surest]
    assert [example.text for example in errors.blocks] == [texts[row] for row in surest]
    row, first = surest[0], errors.blocks[0]
    assert first.predicted == method.classes[method.prediction[row]]
    assert first.label == method.classes[method.labels[row]]
    assert first.confidence == f"{100 * method.confidence[row]:.1f}\N{NO-BREAK SPACE}%"
    assert f"{len(wrong)} of 240 labelled examples wrong; the 10 most" in errors.summary


def test_a_column_that_is_not_there_is_named(make, tmp_path):
    file = tmp_path / "a.parquet"
    make("m", columns={name: ["words"] * 240 for name in ("text", "note")}).save(file)
    with refused("unknown", "'texts'", "'note', 'text'"):
        check_column(gather(file, columns=["texts"]), "texts")
    with refused("unknown", "'text'"):
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
        "prior_share": "0.412",
        "held_out_nll": "0.436; bag of words 0.463",
    }
    [method] = assessed(make("m", metadata=notes))
    card = method_card(method, {})
    rows = dict(card.rows)
    assert (rows["posterior"], rows["posterior summary"]) == ("theirs", "a Gaussian of theirs")
    assert rows["passes"] == rows["num samples"] == "20"
    assert rows["link"] == "softmax of each pass, averaged"
    assert rows["prior share"] == "0.412"
    assert rows["held out nll"] == "0.436; bag of words 0.463"
    assert (rows["fit seed"], rows["seed"], rows["sources"]) == ("4", "3", "They 2026")
