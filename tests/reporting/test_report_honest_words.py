"""Wording supported by the numbers: clusters, reversed detection, few rows."""

import re

import numpy as np
import pytest

import bayeslora as bl

pytestmark = pytest.mark.usefixtures("blank_figures")

FEW = {"num_resamples": 60}


def made(n, seed, times=1, name="m"):
    """Return predictions calibrated by construction, each row `times` times."""
    generator = np.random.default_rng(seed)
    sure = generator.uniform(0.55, 1.0, n)
    labels = (generator.random(n) >= sure).astype(np.int64)
    twin = np.repeat(np.arange(n), times)
    return bl.Predictions(
        np.column_stack([sure, 1 - sure])[twin],
        ("a", "b"),
        labels[twin],
        name=name,
        columns={"twin": tuple(map(str, twin))},
    )


def page(tmp_path, *predictions, **options):
    bl.report(list(predictions), out=tmp_path / "out", **options, **FEW)
    return (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_shares_in_words_are_those_of_clusters(tmp_path):
    # both sentences refer to these rows
    once = page(tmp_path / "once", made(60, 9))
    often = page(tmp_path / "often", made(60, 9, times=9), cluster_by="twin")
    for start in ("Let a person check", "- Even at a confidence"):
        single = [re.findall(r"\[[\d., ]+", text) for text in once.splitlines() if start in text]
        repeated = [re.findall(r"\[[\d., ]+", text) for text in often.splitlines() if start in text]
        assert single == repeated
        assert single
        assert all(single)


@pytest.fixture
def inverted():
    """Return unfamiliar rows for which the model is almost certain."""
    sure = np.linspace(0.995, 0.999, 80)
    return bl.Predictions(np.column_stack([sure, 1 - sure]), ("a", "b"))


def test_detection_in_the_wrong_direction_is_called_that(tmp_path, inverted):
    text = page(tmp_path, made(200, 1), ood={"odd": inverted})
    assert "interval below 0.5" in text
    assert "interval reaches 0.5" not in text
    assert "detects the set" not in text


def test_few_unfamiliar_rows_show_nothing(tmp_path):
    text = page(tmp_path, made(200, 1), ood={"odd": made(12, 7).replace(labels=None)})
    assert "interval reaches 0.5" in text
    assert "interval below 0.5" not in text


def test_no_method_is_chosen_on_a_handful_of_rows(tmp_path):
    text = page(tmp_path, made(6, 0, name="one"), made(6, 0, name="two"))
    assert "by cost" not in text


def test_a_method_without_an_error_does_not_make_every_ece_unknown(tmp_path):
    plain = made(300, 4, name="plain")
    right = np.eye(2)[plain.labels]
    perfect = plain.replace(probs=right, name="perfect")
    text = page(tmp_path, plain, perfect)
    assert "cannot be judged" not in text


def test_cards_say_that_a_calibration_error_is_more_than_chance():
    rows = made(2000, 0)
    bent = rows.probs**3 / (rows.probs**3).sum(1, keepdims=True)
    scores = bl.evaluate(rows.replace(probs=bent), **FEW)
    assert scores.calibration_p < 0.05
    assert "further off than chance explains" in bl.model_card_section(scores)
    fine = bl.evaluate(made(200, 0), **FEW)
    text = bl.model_card_section(fine)
    assert "with a probability of" in text
    assert "further off than chance explains" not in text


def test_files_of_comparisons_hold_no_direction_marks(tmp_path):
    from bayeslora.reporting.comparison import write_comparison

    first, second = made(40, 0, name="good\u202e name"), made(40, 0, name="plain")
    comparison = bl.compare(
        [first, second.replace(probs=second.probs[:, ::-1])], num_permutations=9, **FEW
    )
    files = write_comparison(comparison, tmp_path / "out")
    assert len(files) == 3
    for file in files:
        assert "\u202e" not in file.read_text(encoding="utf-8")
    bl.report([first, second], out=tmp_path / "page", **FEW)
    assert "\u202e" not in (tmp_path / "page" / "scores.csv").read_text(encoding="utf-8")


def test_one_fit_beside_means_over_seeds_is_named(tmp_path):
    def bent(power, seed):
        rows = made(300, 0, name="bent")
        noise = np.random.default_rng(seed).normal(scale=0.05, size=rows.probs.shape)
        odds = rows.probs**power * np.exp(noise)
        return rows.replace(
            probs=odds / odds.sum(1, keepdims=True), metadata={"fit_seed": str(seed)}
        )

    text = page(tmp_path, made(300, 0, name="single"), *(bent(4, seed) for seed in (1, 2)))
    assert "**single** is one fit beside means over seeds: other seeds may do worse." in text
