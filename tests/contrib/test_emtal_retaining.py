"""The quality-retaining loss: its gradient, its state, and resumed training."""

from dataclasses import replace

import pytest
import torch
from small_fits import equal_states, fresh
from tiny import toy_rows
from torch.nn.functional import kl_div

from bayeslora import MLE
from bayeslora.contrib.emtal import EMTAL, Retained, across_tasks
from bayeslora.logits import ABSENT

TASKS = torch.tensor([0, 0, 0, 1, 1])
MEAN = EMTAL(quality_retaining="mean")
SMALL = {"r": 2, "num_experts": 4, "num_layers": 2}


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def among(logits, labels):
    """Return logits of rows among the classes of their task."""
    return torch.where(TASKS[labels][:, None] == TASKS, logits, ABSENT)


def retained_loss(options=None, tasks=TASKS, seed=1):
    """Return a loss that has stored random logits of each class, in float64."""
    retained = Retained(options or MEAN, tasks)
    retained.logits = 2 * drawn(*retained.logits.shape, seed=seed)
    retained.known[:] = True
    retained.losses = retained.losses.double() / 40
    return retained


def test_the_gradient_is_that_of_the_sheet():
    """(T/ℓ)(softmax(z/T) − softmax(Z/T)) among the row's task, averaged over rows."""
    retained = retained_loss()
    logits, labels = drawn(4, 5).requires_grad_(), torch.tensor([0, 3, 4, 1])
    retained.penalty(among(logits, labels), labels).backward()
    for row, label in enumerate(labels.tolist()):
        own = TASKS[label] == TASKS
        weight = 1 / float(retained.losses[TASKS[label]])
        Z = retained.logits[label]
        expected = 2.0 * weight * ((logits[row, own] / 2).softmax(0) - (Z[own] / 2).softmax(0))
        torch.testing.assert_close(logits.grad[row, own], (expected / 4).detach())
        assert (logits.grad[row, ~own] == 0).all()


def test_the_loss_is_a_mean_of_weighted_divergences():
    retained = retained_loss(replace(MEAN, temperature=1.5))
    retained.losses[1] = 0.05  # 1 / 0.05 exceeds the limit of the weight
    labels = torch.tensor([2, 2, 4])
    logits = among(drawn(3, 5), labels)
    expected = 0.0
    for z, label in zip(logits, labels.tolist(), strict=True):
        own = TASKS[label] == TASKS
        weight = min(10.0, 1 / float(retained.losses[TASKS[label]]))
        P, p = (retained.logits[label][own] / 1.5).softmax(0), (z[own] / 1.5).softmax(0)
        expected += weight * 1.5**2 * float(kl_div(p.log(), P, reduction="sum")) / 3
    assert float(retained.penalty(logits, labels)) == pytest.approx(expected, abs=1e-12)


def test_a_class_moves_by_the_mean_of_its_right_rows_in_any_order():
    logits = torch.tensor([[3.0, 0, 0, 9, 9], [1, 0, 0, 0, 0], [0, 2, 0, 0, 0], [0, 0, 0, 0, 5]])
    labels = torch.tensor([0, 0, 0, 4])  # the third is wrong; 9 belongs to another task
    logits = among(logits, labels)
    retained = retained_loss(replace(MEAN, momentum=0.8))
    retained.logits = retained.logits.float()
    before = retained.logits.clone()
    other = retained_loss(replace(MEAN, momentum=0.8))
    other.logits = other.logits.float()
    order = torch.tensor([2, 3, 1, 0])
    retained.see(logits, labels)
    other.see(logits[order], labels[order])
    torch.testing.assert_close(retained.logits, other.logits)
    mean = (logits[0] + logits[1]) / 2
    torch.testing.assert_close(retained.logits[0], 0.8 * before[0] + 0.2 * mean)
    torch.testing.assert_close(retained.logits[4], 0.8 * before[4] + 0.2 * logits[3])
    assert torch.equal(retained.logits[1:4], before[1:4])


class KilledError(Exception):
    """Stands in for a kill."""


def test_an_interrupted_fit_ends_as_if_it_had_never_stopped(encoder, tmp_path):
    def begin():
        return fresh(encoder, MLE(), replace(MEAN, **SMALL), epochs=3)

    def die(number, _):
        if number == 2:
            raise KilledError

    whole = begin()
    expected = whole.run(tmp_path / "whole", validates=True)
    with pytest.raises(KilledError):
        begin().run(tmp_path / "again", validates=True, on_epoch=die)
    resumed = begin()
    result = resumed.run(tmp_path / "again", validates=True)
    assert equal_states(whole.network.trained_state(), resumed.network.trained_state())
    assert result == expected
    plain = fresh(encoder, MLE(), EMTAL(**SMALL), epochs=3)
    plain.run(tmp_path / "plain", validates=True)
    assert not equal_states(whole.network.trained_state(), plain.network.trained_state())


def test_across_tasks_rows_have_the_classes_of_all_tasks():
    parts = {"topic": toy_rows(9), "other": toy_rows(6, 1)}
    rows = across_tasks(parts)
    assert len(rows) == 15
    assert rows.among is None
    labels = [f"{task}: {row['label']}" for task, part in parts.items() for row in part]
    assert list(rows.labels) == labels
