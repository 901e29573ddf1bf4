"""The quality-retaining loss: its gradient, its state, and resumed training."""

import pytest
import torch
from refusal import refused
from small_fits import equal_states, fresh
from torch.nn.functional import cross_entropy, kl_div

from bayeslora import MLE, VBLL, QualityRetaining
from bayeslora.adapters.lora import LoRA
from bayeslora.engine.training.head_updates import Retained
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.logits import ABSENT
from bayeslora.posteriors.registry import resolve_posterior

TASKS = torch.tensor([0, 0, 0, 1, 1])
LORA = LoRA(r=2, num_layers=2)


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def among(logits, labels):
    """Return logits of rows among the classes of their task."""
    return torch.where(TASKS[labels][:, None] == TASKS, logits, ABSENT)


def retained_loss(options=None, tasks=TASKS, seed=1):
    """Return a loss that has stored random logits of each class, in float64."""
    retained = Retained(options or QualityRetaining(), tasks)
    retained.logits = 2 * drawn(*retained.logits.shape, seed=seed)
    retained.known[:] = True
    retained.losses = retained.losses.double() / 40
    return retained


@pytest.mark.parametrize("published", [False, True])
def test_the_gradient_is_that_of_the_sheet(published):
    """(T/ℓ)(softmax(z/T) − softmax(Z/T)) per entry of the row's task, averaged over rows."""
    retained = retained_loss(QualityRetaining(published=published, temperature=2.0))
    logits, labels = drawn(4, 5).requires_grad_(), torch.tensor([0, 3, 4, 1])
    retained.loss(among(logits, labels), labels).backward()
    for row, label in enumerate(labels.tolist()):
        own = TASKS[label] == TASKS
        weight = 1 / float(retained.losses[TASKS[label]])
        expected = sum(
            2.0 * weight * ((logits[row, own] / 2).softmax(0) - (Z[own] / 2).softmax(0))
            for Z in retained.logits[label]
        )
        torch.testing.assert_close(logits.grad[row, own], (expected / 4).detach())
        assert (logits.grad[row, ~own] == 0).all()


def test_the_loss_is_a_mean_of_weighted_divergences():
    retained = retained_loss(QualityRetaining(largest=3.0, temperature=1.5))
    labels = torch.tensor([2, 2, 4])
    logits = among(drawn(3, 5), labels)
    expected = 0.0
    for z, label in zip(logits, labels.tolist(), strict=True):
        own = TASKS[label] == TASKS
        weight = min(3.0, 1 / float(retained.losses[TASKS[label]]))
        P, p = (retained.logits[label, 0][own] / 1.5).softmax(0), (z[own] / 1.5).softmax(0)
        expected += weight * 1.5**2 * float(kl_div(p.log(), P, reduction="sum")) / 3
    assert float(retained.loss(logits, labels)) == pytest.approx(expected, abs=1e-12)


def test_a_class_without_an_entry_has_no_weight_and_published_zeros_mean_uniform():
    labels = torch.tensor([0, 3])
    logits = among(drawn(2, 5).float(), labels)
    assert float(Retained(QualityRetaining(), TASKS).loss(logits, labels)) == 0
    published = Retained(QualityRetaining(published=True, temperature=1.0), TASKS)
    # Two entries of zeros: twice KL(uniform ‖ softmax) with weight 1/10.
    expected = sum(
        2 * 0.1 * float(kl_div(z[own].log_softmax(0), torch.full((n,), 1 / n), reduction="sum"))
        for z, own, n in zip(logits, (slice(0, 3), slice(3, 5)), (3, 2), strict=True)
    )
    assert float(published.loss(logits, labels)) == pytest.approx(expected / 2, rel=1e-5)


def test_running_losses_are_of_each_task_over_its_own_classes():
    retained = retained_loss()
    before = retained.losses.clone()
    labels = torch.tensor([0, 2, 1])
    logits = among(drawn(3, 5), labels)
    retained.see(logits, labels)
    expected = 0.95 * before[0] + 0.05 * cross_entropy(logits[:, :3], labels)
    torch.testing.assert_close(retained.losses[0], expected, rtol=1e-6, atol=0)
    assert retained.losses[1] == before[1]


def test_a_class_moves_by_the_mean_of_its_right_rows_in_any_order():
    logits = torch.tensor([[3.0, 0, 0, 9, 9], [1, 0, 0, 0, 0], [0, 2, 0, 0, 0], [0, 0, 0, 0, 5]])
    labels = torch.tensor([0, 0, 0, 4])  # the third is wrong; 9 belongs to another task
    logits = among(logits, labels)
    retained = retained_loss(QualityRetaining(momentum=0.8))
    retained.logits = retained.logits.float()
    before = retained.logits.clone()
    other = retained_loss(QualityRetaining(momentum=0.8))
    other.logits = other.logits.float()
    order = torch.tensor([2, 3, 1, 0])
    retained.see(logits, labels)
    other.see(logits[order], labels[order])
    torch.testing.assert_close(retained.logits, other.logits)
    mean = (logits[0] + logits[1]) / 2
    torch.testing.assert_close(retained.logits[0, 0], 0.8 * before[0, 0] + 0.2 * mean)
    torch.testing.assert_close(retained.logits[4, 0], 0.8 * before[4, 0] + 0.2 * logits[3])
    assert torch.equal(retained.logits[1:4], before[1:4])
    everything = retained_loss(QualityRetaining(momentum=0.8, only_correct=False))
    everything.logits = everything.logits.float()
    everything.see(logits, labels)
    mean = logits[:3].mean(0)
    torch.testing.assert_close(everything.logits[0, 0], 0.8 * before[0, 0] + 0.2 * mean)


def test_the_first_rows_of_a_class_are_its_entry():
    retained = Retained(QualityRetaining(), TASKS)
    logits = torch.tensor([[3.0, 0, 0, 0, 0], [0, 4, 0, 0, 0]])
    retained.see(logits, torch.tensor([0, 2]))
    assert retained.known[:, 0].tolist() == [True, False, False, False, False]
    assert torch.equal(retained.logits[0, 0], logits[0])


def test_the_published_form_keeps_the_last_two_rows():
    retained = Retained(QualityRetaining(published=True), TASKS)
    rows = drawn(3, 5).float()
    retained.see(rows[:1], torch.tensor([0]))
    assert torch.equal(retained.logits[0], torch.stack([torch.zeros(5), rows[0]]))
    retained.see(rows[1:], torch.tensor([0, 0]))
    assert torch.equal(retained.logits[0], rows[1:])


def test_nothing_reaches_what_is_kept():
    retained = retained_loss()
    logits = drawn(2, 5).requires_grad_()
    retained.see(logits, torch.tensor([0, 3]))
    assert not any(item.requires_grad for item in retained.state().values())
    other = Retained(QualityRetaining(), TASKS)
    other.load(retained.state())
    assert equal_states(other.state(), retained.state())


class KilledError(Exception):
    """Stands in for a kill."""


@pytest.mark.parametrize("options", [QualityRetaining(), QualityRetaining(published=True)])
def test_an_interrupted_fit_ends_as_if_it_had_never_stopped(encoder, tmp_path, options):
    def begin():
        return fresh(encoder, MLE(), LORA, epochs=3, quality_retaining=options)

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
    plain = fresh(encoder, MLE(), LORA, epochs=3)
    plain.run(tmp_path / "plain", validates=True)
    assert not equal_states(whole.network.trained_state(), plain.network.trained_state())


@pytest.mark.parametrize("posterior", ["vbll:prior_scale=2", "laplace", "gvbll", "swag", "blob"])
def test_it_goes_with_any_posterior(encoder, tmp_path, posterior):
    config = resolve_posterior(posterior)
    fit = fresh(encoder, config, LORA, epochs=2, quality_retaining=QualityRetaining())
    fit.run(tmp_path / "fit")
    assert all(item.isfinite().all() for item in fit.network.trained_state().values())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (False, None),
        (True, QualityRetaining()),
        ("on", QualityRetaining()),
        ("momentum=0.5,temperature=1", QualityRetaining(momentum=0.5, temperature=1)),
        ({"published": True}, QualityRetaining(published=True)),
        (QualityRetaining(largest=2), QualityRetaining(largest=2)),
    ],
)
def test_options_stand_in_many_forms(value, expected):
    assert TrainingSettings(quality_retaining=value).quality_retaining == expected


@pytest.mark.parametrize(
    ("value", "refusal"),
    [
        ("momentum=1", ("option", "momentum", "1")),
        ("temperature=0", ("option", "temperature", "0")),
        ("largest=-1", ("option", "largest", "-1")),
        ("only_correct=2", ("option", "only_correct", "2")),
        ("published=true,momentum=0.5", ("no-effect", "momentum")),
        ("momentun=0.5", ("unknown", "'momentun'", "'momentum'")),
        (VBLL(), ("option", "quality_retaining")),
    ],
)
def test_options_out_of_range_are_refused(value, refusal):
    with refused(*refusal):
        TrainingSettings(quality_retaining=value)
