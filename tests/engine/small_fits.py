"""Fits on the toy rows that take seconds, with every part open to inspection."""

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny import CLASSES, toy_rows

from bayeslora import VBLL
from bayeslora.adapters.polar import PoLAR
from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import encode_labels
from bayeslora.engine.build import build_network
from bayeslora.engine.cross_validation import fit_network
from bayeslora.engine.data import read_labelled
from bayeslora.engine.loop import Loop, train_network
from bayeslora.engine.network import prepare
from bayeslora.engine.plan import Plan
from bayeslora.engine.predict import answer
from bayeslora.engine.training import Training
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.posteriors.types import TrainingRun

POLAR = PoLAR(r=4, num_layers=2)
# GRADIENT is the published alternation, with every option that a test refers to. QUICK is the
# default except for the most expensive parts of a small fit: a learnt prior scale and its bound.
QUICK = VBLL(prior_scale=2)
GRADIENT = VBLL()


@dataclass
class Fit:
    """A network with its rows, ready to be trained."""

    network: object
    train: object
    validation: object
    adapter: object
    posterior: object
    settings: TrainingSettings

    @property
    def plan(self):
        return Plan(
            adapter=self.adapter,
            posterior=self.posterior,
            seed=self.settings.seed,
            training=self.settings,
            progress=False,
        )

    def training(self, directory=None, *, validates=False):
        """Return the training; without `validates` the last epoch is kept."""
        return Training(
            self.network,
            self.plan,
            self.train,
            self.validation if validates else None,
            directory=None if directory is None else Path(directory),
        )

    def run(self, directory, *, validates=False, fit_last=True, on_epoch=None):
        """Train; call `on_epoch` with the number of each epoch, from 1, and the network."""
        training = self.training(directory, validates=validates)
        with nullcontext() if on_epoch is None else each_epoch(on_epoch):
            return fit_network(training) if fit_last else train_network(training)


def rows(count, seed):
    """Return examples and labels, as `prepare` takes them."""
    examples = read_labelled(toy_rows(count, seed), DataColumns())
    return examples, torch.from_numpy(encode_labels(examples, CLASSES))


def fresh(backbone, posterior=None, adapter=POLAR, *, num_train=30, **settings):
    """Return a fit that has not begun."""
    posterior = QUICK if posterior is None else posterior
    options = TrainingSettings(**{"epochs": 2, "batch_size": 8, "seed": 3} | settings)
    network = build_network(
        backbone, Plan(adapter=adapter, posterior=posterior, seed=options.seed, max_length=32), 3
    )
    train, validation = (
        prepare(network.encoder, rows(count, seed), progress=False)
        for count, seed in ((num_train, 0), (18, 1))
    )
    return Fit(network, train, validation, adapter, posterior, options)


@contextmanager
def each_epoch(hook):
    """Call a hook after the steps of each epoch of all trainings, before its checkpoint."""
    end = Loop.end_epoch

    def ending(loop, loss):
        hook(loop.epoch + 1, loop.fit.network)
        return end(loop, loss)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "end_epoch", ending)
        yield


def training_run(fit):
    """Return what a posterior over weights receives before the training of a fit."""
    num_train = len(fit.train.labels)
    steps = fit.settings.num_steps(num_train)
    return TrainingRun(fit.network, fit.adapter, num_train, steps)


def watch(patch, hook):
    """Add a hook to the steps of all trainings, after all others."""
    begin = Loop.__init__

    def with_hook(self, *args):
        begin(self, *args)
        self.hooks.append(hook)

    patch.setattr(Loop, "__init__", with_hook)


def equal_states(first, second):
    """Return whether two mappings of tensors are bit-equal."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def calls_of_layers(fit, texts):
    """Return how often each layer runs in a prediction, and how many texts it announces."""
    layers = fit.network.encoder.model.encoder.layer
    calls, seen = [0] * len(layers), []

    def count(place):
        return lambda *_: calls.__setitem__(place, calls[place] + 1)

    handles = [layer.register_forward_hook(count(place)) for place, layer in enumerate(layers)]
    list(answer(fit.network, [], fit.posterior, texts, advance=seen.append))
    for handle in handles:
        handle.remove()
    return calls, sum(seen)
