"""Display of names and numbers."""

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayeslora.metrics.scores import Score, difference_digits
from bayeslora.plain_text import clean, counted, display_columns, shorten
from bayeslora.reporting.text import interval, listed, number, percent, share_interval, shown


@pytest.mark.parametrize(
    ("value", "options", "text"),
    [
        (0.12345, {}, "0.123"),
        (-0.5, {}, "−0.500"),
        (0.5, {"signed": True}, "+0.500"),
        (-0.0001, {"signed": True}, "0.000"),
        (12.34, {"digits": 1}, "12.3"),
        (math.inf, {}, "∞"),
        (-math.inf, {}, "−∞"),
        (math.nan, {}, "–"),
    ],
)
def test_numbers_have_a_fixed_number_of_digits(value, options, text):
    assert number(value, **options) == text


def test_intervals_percentages_and_points():
    assert interval(0.1, 0.25) == "[0.100, 0.250]"
    assert interval(math.nan, 1.0) == "no interval"
    assert shown(Score(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"
    assert share_interval(0.061, 0.109) == "[6.1, 10.9]"
    assert share_interval(-0.02, 0.03, digits=4) == "[−2.00, 3.00]"
    assert percent(0.0345).replace("\N{NO-BREAK SPACE}", " ") == "3.5 %"


@given(st.integers(0, 999), st.floats(0, 1))
def test_a_difference_never_contradicts_the_rounded_numbers_beside_it(right, confidence):
    accuracy = right / 999
    gap = confidence - accuracy
    digits = difference_digits(gap, confidence, accuracy)
    apart = float(number(confidence)) - float(number(accuracy))
    same = number(apart) == number(gap)
    assert digits == (3 if same else 4)
    assert abs(apart - gap) <= 0.001 + 1e-12


def test_counts_and_lists_read_as_in_a_sentence():
    assert counted(1, "row") == "1 row"
    assert counted(1200, "row") == "1,200 rows"
    assert (counted(1, "epoch"), counted(2, "epoch"), counted(2, "class")) == (
        "1 epoch",
        "2 epochs",
        "2 classes",
    )
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(list("abcdefgh"), most=4) == "a, b, c and 5 more"


def test_cleaning_keeps_visible_text_and_escapes_the_rest():
    assert clean("a\tb\n\x00c") == "a b \\x00c"
    assert clean("\u202ereversed \u2067x") == "\\u202ereversed \\u2067x"
    assert clean("\ud800x\ufffe") == "\\ud800x\\ufffe"
    assert clean("zero\u200bwidth") == "zero\\u200bwidth"
    assert clean(" \n ") == "unnamed"
    for words in ("<b> & $x_1$ שלום 猫", "می\u200cخواهم", "👩\u200d💻", "❤\ufe0f"):
        assert clean(words) == words


@given(st.text(max_size=80), st.integers(2, 40))
def test_shortened_text_fits_and_starts_as_the_text_does(text, columns):
    short = shorten(text, columns)
    assert display_columns(short) <= columns
    assert short == text or text.startswith(short[:-1])


@given(st.text(max_size=60))
def test_cleaned_text_has_no_control_characters_and_is_stable(text):
    cleaned = clean(text)
    assert not any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in cleaned)
    assert clean(cleaned) == cleaned
