"""The order of training rows: complete, repeatable, different each epoch."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.tokens import Tokens
from bayeslora.engine.network import LengthBatchSampler, collate

LENGTHS = np.random.default_rng(0).integers(1, 40, 200)


def epochs(lengths, size, seed, count=3):
    sampler = LengthBatchSampler(np.asarray(lengths), size, seed)
    batches = []
    for epoch in range(count):
        sampler.set_epoch(epoch)
        batches.append(list(sampler))
    return batches


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=120),
    size=st.integers(1, 20),
    seed=st.integers(0, 5),
)
def test_every_epoch_has_every_row_once(lengths, size, seed):
    sampler = LengthBatchSampler(np.asarray(lengths), size, seed)
    for batches in epochs(lengths, size, seed):
        assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
        assert len(batches) == len(sampler)
        assert all(0 < len(batch) <= size for batch in batches)


def test_seed_and_epoch_decide_the_order():
    first = epochs(LENGTHS, 8, seed=1)
    assert first == epochs(LENGTHS, 8, seed=1)
    assert first != epochs(LENGTHS, 8, seed=2)
    assert first[0] != first[1]
    assert first[1] != first[2]


def test_rows_of_a_batch_have_similar_lengths():
    def padding(batches):
        return sum(len(rows) * LENGTHS[rows].max() - LENGTHS[rows].sum() for rows in batches)

    shuffled = np.random.default_rng(1).permutation(len(LENGTHS)).reshape(-1, 8).tolist()
    assert padding(epochs(LENGTHS, 8, seed=1)[0]) < 0.4 * padding(shuffled)


def test_long_and_short_batches_are_mixed():
    batches = epochs(LENGTHS, 8, seed=1)[0]
    means = [LENGTHS[rows].mean() for rows in batches]
    assert means != sorted(means)
    assert means != sorted(means, reverse=True)


def test_a_batch_has_padded_texts_and_their_labels():
    tokens = Tokens((np.array([5]), np.array([6, 7])), 0, 9)
    texts = PreparedTexts(tokens, None, labels=torch.tensor([4, 3]))
    batch = collate(texts, [1, 0])
    assert batch["input_ids"].tolist() == [[6, 7], [5, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["labels"].tolist() == [3, 4]
