"""The plain words: right about data whose truth is known, and silent where chance would do."""

import re

import numpy as np
import pytest

from bayeslora.predictions.collection import gather
from bayeslora.reporting.answers import answers_of
from bayeslora.reporting.assess import assess, pair
from bayeslora.reporting.lay_summary import in_plain_words
from bayeslora.reporting.ranking import facts_of

JARGON = re.compile(r"NLL|ECE|AUROC|FPR|Brier|nats|posterior|entropy|calibrated|\bbins?\b")


def words(items, ood=None, num_resamples=100):
    """Return the sentences by topic, without the marks around names."""
    gathered = gather(items, ood)
    options = {"num_bins": 15, "num_resamples": num_resamples, "seed": 0}
    methods = assess(gathered, ood_score=None, **options)
    facts = facts_of(methods, pair(methods, **options), {name: name for name in ood or {}})
    found = in_plain_words(facts)
    marks = str.maketrans({"\u2068": None, "\u2069": None, "\N{NO-BREAK SPACE}": " "})
    return {one.topic: " ".join(one.sentences).translate(marks) for one in found}


HOW_SURE = "How sure is it, and may it be?"
WHERE_NOT = "Where not to trust it"
WHAT = "What to do"


@pytest.mark.parametrize("seed", [0, 1])
def test_too_sure_is_said_of_what_is(make, seed):
    found = words(make("m", sharpness=3.0, rows=1000, seed=seed))
    assert re.search(
        r": too sure, by [\d.]+ points \(likely [\d.]+ to [\d.]+\)\.$", found[HOW_SURE]
    )
    assert "Do not read its percentages as they stand." in found[WHAT]
    assert "Where it says that it is about 9" in found[WHERE_NOT]


@pytest.mark.parametrize("seed", [0, 1])
def test_not_sure_enough_is_said_of_what_is(make, seed):
    found = words(make("m", sharpness=0.4, rows=1000, seed=seed))
    assert "less sure than it could be" in found[HOW_SURE]
    assert "Do not read its percentages as they stand." in found[WHAT]
    assert "Where it says that it is about" not in found[WHERE_NOT]


def test_exact_probabilities_are_rarely_accused_and_never_acquitted(make):
    # Each page makes two tests at 5 % (gap and bins), so at most 10 % of pages accuse; of 20 pages
    # more than 6 would then have a probability of 0.2 %.
    accused = 0
    for seed in range(20):
        found = words(make("m", rows=150, seed=seed), num_resamples=60)
        said = " ".join(found.values())
        assert not re.search(r"\b(well|perfectly|is|are) calibrated", said)
        if "no sign that its confidence is wrong" in found[HOW_SURE]:
            assert "no proof that it is right either: with 150 rows" in found[HOW_SURE]
            assert "Nothing here speaks against" in found[WHAT]
        else:
            accused += 1
    assert accused <= 6


def test_few_rows_cannot_tell(make):
    found = words(make("m", sharpness=1.2, rows=25))
    assert "no sign that its confidence is wrong" in found[HOW_SURE]
    could_be = float(re.search(r"off by up to ([\d.]+) points", found[HOW_SURE])[1])
    assert could_be > 5
    assert "Label more rows if this matters: with 25 labelled rows" in found[WHAT]


def test_no_better_than_the_most_common_class(make):
    found = words(make("m", signal=0.05, sharpness=10.0, rows=200))
    assert "so it is not shown to be any better than that" in found["How right is it?"]


def test_no_words_of_the_trade(make, methods, ood):
    plain = words(methods, {name: {"far": sets["far"]} for name, sets in ood.items()})
    rest = words(make("m", sharpness=3.0))
    for topics in (plain, rest):
        for topic, said in topics.items():
            assert not JARGON.search(f"{topic} {said}"), said


def test_the_method_is_named_with_those_that_may_be_as_good(methods):
    found = words(methods)
    said = found["Which method is this about?"]
    assert said.startswith("About temperature, whose probabilities fit the true classes best")
    assert "polar-vbll cannot be told from it" in said
    assert "mle" not in said


def test_unfamiliar_rows_are_limits_and_have_steps(make):
    blind = make("m", rows=100, labelled=False, seed=5)
    seen = make("m", signal=0.1, rows=300, labelled=False, seed=6)
    found = words(make("m"), {"same": blind, "odd": seen})
    assert "such as same: it is" in found[WHERE_NOT]
    assert found[WHERE_NOT].count("not shown to notice that they are unfamiliar") == 1
    assert "Check by other means whether a row is like same" in found[WHAT]
    assert "To catch rows like odd, pass on those of lowest confidence" in found[WHAT]
    assert found[WHERE_NOT].endswith("nothing here says how right it is there.")


def test_without_labels_there_are_no_words(make):
    assert words(make("m", labelled=False)) == {}


def one_hot(make, correct, labels):
    """Return predictions that are sure, right where told, and else name the next class."""
    labels = np.asarray(labels)
    guess = np.where(correct, labels, (labels + 1) % 4)
    return make("m", rows=len(labels), labels=labels, probs=np.eye(4)[guess])


def test_a_weak_class_is_one_that_chance_does_not_explain(make):
    labels = np.repeat(np.arange(4), 50)
    correct = np.ones(200, dtype=bool)
    correct[:10] = False
    # 40 of 50 against 150 of 150: the interval of level 1 - 0.05/4 ends at 0.90, the others' starts
    # at 0.975
    index, share = answers_of(one_hot(make, correct, labels)).weakest_class()
    assert (index, share.count, share.size) == (0, 40, 50)
    assert share.high == pytest.approx(0.904, abs=0.001)
    correct[:] = True
    correct[:2] = False
    assert answers_of(one_hot(make, correct, labels)).weakest_class() is None


def test_shares_are_those_of_the_rows(make):
    labels = np.zeros(100, dtype=int)
    correct = np.ones(100, dtype=bool)
    correct[:7] = False
    answers = answers_of(one_hot(make, correct, labels))
    wrong = answers.wrong_though_sure()
    assert (wrong.count, wrong.size) == (7, 100)
    # Wilson's interval of 7 of 100, from the closed form
    assert (wrong.low, wrong.high) == pytest.approx((0.0343, 0.1375), abs=1e-4)
    assert answers.surest() is None, "all rows are equally sure"
    assert answers.weakest_class() is None, "one class alone has rows"
