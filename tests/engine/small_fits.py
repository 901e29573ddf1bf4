"""Fits on the toy rows that take seconds, with every part open to inspection."""

from dataclasses import dataclass
from pathlib import Path

import torch
from tiny import CLASSES, toy_rows

from bayeslora import VBLL
from bayeslora.adapters.polar import PoLAR
from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import encode_labels
from bayeslora.engine.build import build_network
from bayeslora.engine.data import read_labelled
from bayeslora.engine.plan import Plan
from bayeslora.engine.rows import prepare
from bayeslora.engine.training.final_fit import LastFit
from bayeslora.engine.training.loop import Loop, Training, train_network
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.posteriors.types import TrainingRun

POLAR = PoLAR(r=4, num_layers=2)
# GRADIENT is the published alternation, with every option that a test refers to. QUICK is the
# default except for the most expensive parts of a small fit: a learnt prior scale and its bound.
QUICK = VBLL(prior_scale=2, polish_bound="jensen")
GRADIENT = VBLL(bound="jensen")


@dataclass
class Fit:
    """A network with its rows, ready to be trained."""

    network: object
    train: object
    validation: object
    adapter: object
    posterior: object
    settings: TrainingSettings

    def run(self, directory, **options):
        """Train; without `validates=True` the last epoch is kept."""
        validation = self.validation if options.pop("validates", False) else None
        training = Training(
            self.network,
            self.train,
            validation,
            self.adapter,
            LastFit(self.posterior, seed=self.settings.seed),
            self.settings,
            directory=None if directory is None else Path(directory),
            title=None,
            on_epoch=options.pop("on_epoch", None),
        )
        return train_network(training, **options)


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


def training_run(fit):
    """Return what a posterior over weights receives before the training of a fit."""
    num_train = len(fit.train.labels)
    steps = fit.settings.num_steps(num_train)
    return TrainingRun(fit.network, fit.adapter, num_train, steps, fit.settings.batch_size)


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
