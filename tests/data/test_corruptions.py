"""Text corruptions: seeded, never empty, and stronger at a higher severity."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayeslora.data.corruptions import CORRUPTIONS, SEVERITIES, Corruption
from bayeslora.data.read import read
from bayeslora.errors import InputError

TEXTS = st.text(min_size=1).filter(lambda text: bool(text.strip()))
KINDS = st.sampled_from(sorted(CORRUPTIONS))
LEVELS = st.sampled_from(SEVERITIES)
SENTENCE = "the quick brown fox jumps over the lazy dog while it rains in the garden " * 6


@given(TEXTS.filter(lambda text: text.isprintable()), KINDS, LEVELS, st.integers(0, 99))
def test_no_text_becomes_empty_and_equal_seeds_give_equal_texts(text, kind, severity, seed):
    made = Corruption(kind, severity, seed)(text)
    assert made.strip()
    assert made == Corruption(kind, severity, seed)(text)


@given(st.lists(st.sampled_from(["ab", "cd", "ef"]), min_size=1), st.integers(0, 99))
def test_a_higher_severity_leaves_fewer_words(words, seed):
    text = " ".join(words)
    for kind in ("word_drop", "truncation"):
        sizes = [len(Corruption(kind, level, seed)(text).split()) for level in SEVERITIES]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[-1] >= 1


def test_questions_keep_their_options_and_rows_their_order():
    row = {"question": SENTENCE, "context": SENTENCE[:80], "choices": ["one two", "three"]}
    rows = [{**row, "answer": 0}, {**row, "question": "other words here", "answer": 1}]
    examples = read(rows)
    worse = Corruption("truncation", 5).corrupted(examples)
    assert worse.choices == examples.choices
    assert worse.labels == examples.labels
    assert SENTENCE.startswith(worse.texts[0])
    assert len(worse.pairs[0]) < 80
    notes = Corruption("typos", 4, 2).notes
    assert notes == {"corruption": "typos", "severity": "4", "corruption_seed": "2"}


@pytest.mark.parametrize(
    "text", ["typos", "typo:3", "typos:0", "typos:6", "typos:x", "typos:-1", ""]
)
def test_bad_corruptions(text):
    with pytest.raises(InputError):
        Corruption.of(text)
