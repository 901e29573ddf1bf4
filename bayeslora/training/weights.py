"""What a posterior over adapter weights adds to training.

A posterior may do any of these, and the others do nothing: run the training passes under noise;
watch the steps; train parameters of its own beside the adapter's; bring another optimiser for the
adapter; forbid early stopping; be finished after the last step.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import TrainerCallback

from bayeslora.adapters.base import Adapter
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.optim.alternating import Euclidean
from bayeslora.optim.ivon import build_ivon, require_ivon, sampled
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.blob import BLoBWeights
from bayeslora.posteriors.clora import CLoRAWeights
from bayeslora.posteriors.config_laplace_lora import LaplaceLoRA
from bayeslora.posteriors.config_variational import BLoB, CLoRA, ScalaBL
from bayeslora.posteriors.config_weights import IVON, SWAG, TFB
from bayeslora.posteriors.ivon import IVONWeights
from bayeslora.posteriors.scalabl import ScalaBLWeights
from bayeslora.posteriors.swag import SWAGWeights, snapshot_steps
from bayeslora.posteriors.tfb import TFBWeights
from bayeslora.training.anchors import choose_sigma
from bayeslora.training.kl_gradient import KLGradient, measure
from bayeslora.training.kl_steps import KLSteps, kl_weight
from bayeslora.training.network import Network
from bayeslora.training.rows import LabelledTexts
from bayeslora.training.settings import TrainingSettings
from bayeslora.training.trainer import PassNoise
from bayeslora.training.watchers import Curvature, Snapshots

Finish = Callable[[PreparedTexts, Tensor], None]


def _nothing(texts: PreparedTexts, labels: Tensor) -> None:
    del texts, labels


@dataclass(frozen=True)
class WeightTraining:
    """Where a posterior over adapter weights takes part in training; by default nowhere.

    Attributes:
        noise: What each training pass happens under.
        callbacks: What watches the steps.
        parameters: What is trained with the adapter, in the learning rate of the adapter.
        optimizer: Moves the adapter's parameters that live on no manifold; None is AdamW.
        schedule: Learning rates after the warm-up.
        early_stopping: Whether validation rows may choose the epoch.
        finish: Called with the training texts and labels [N] after the last step.
    """

    noise: PassNoise = nullcontext
    callbacks: tuple[TrainerCallback, ...] = ()
    parameters: tuple[nn.Parameter, ...] = ()
    optimizer: Euclidean | None = None
    schedule: str = "cosine"
    early_stopping: bool = True
    finish: Finish = _nothing


def weight_training(
    posterior: Posterior,
    network: Network,
    adapter: Adapter,
    num_train: int,
    settings: TrainingSettings,
    *,
    progress: bool = False,
) -> WeightTraining:
    """Return how the posterior over the network's adapter weights takes part in its training.

    Args:
        posterior: What was chosen.
        network: Fresh, with the posterior's module in `weights`.
        adapter: Whose learning rate counts.
        num_train: Training rows N.
        settings: Epochs, batch size, seed.
        progress: Whether what happens after the last step shows a bar on stderr.

    Raises:
        InputError: The training is too short for the posterior.
        TypeError: The posterior is over adapter weights, and nothing here knows its training or
            its module.
    """
    weights = network.weights
    if isinstance(posterior, SWAG) and isinstance(weights, SWAGWeights):
        steps = snapshot_steps(posterior, settings.num_steps(num_train))
        return WeightTraining(
            callbacks=(Snapshots(weights, steps),),
            schedule=posterior.schedule,
            early_stopping=False,
            finish=lambda *_: weights.put_mean(),
        )
    if isinstance(posterior, TFB) and isinstance(weights, TFBWeights):
        search = partial(choose_sigma, posterior, network, weights)
        return WeightTraining(
            finish=lambda *rows: search(LabelledTexts(*rows), seed=settings.seed, shown=progress)
        )
    if isinstance(posterior, BLoB | ScalaBL) and isinstance(weights, BLoBWeights | ScalaBLWeights):
        return _variational(posterior, weights, num_train, settings)
    if isinstance(posterior, CLoRA) and isinstance(weights, CLoRAWeights):
        return _contextual(posterior, weights, network, num_train, settings)
    if isinstance(posterior, IVON) and isinstance(weights, IVONWeights):
        return _natural(posterior, weights, adapter)
    # These are random after training alone.
    if not posterior.weights or isinstance(posterior, LaplaceLoRA):
        return WeightTraining()
    raise TypeError(
        f"no training is known for posterior {posterior.name!r} with {type(weights).__name__}"
    )


def _variational(
    posterior: BLoB | ScalaBL,
    weights: BLoBWeights | ScalaBLWeights,
    num_train: int,
    settings: TrainingSettings,
) -> WeightTraining:
    weight = kl_weight(posterior.kl_weights, num_train, settings.batch_size)
    return WeightTraining(
        noise=lambda batch: weights.noise(len(batch["attention_mask"])),
        callbacks=(KLSteps(weights, posterior.kl_lr, weight),),
        parameters=tuple(weights.parameters()),
    )


def _contextual(
    posterior: CLoRA,
    weights: CLoRAWeights,
    network: Network,
    num_train: int,
    settings: TrainingSettings,
) -> WeightTraining:
    weight = kl_weight(posterior.kl_weights, num_train, settings.batch_size)
    gradient = KLGradient(weights, weight)
    return WeightTraining(
        noise=gradient.noise,
        callbacks=(gradient,),
        parameters=tuple(weights.parameters()),
        finish=lambda texts, _: measure(network, weights, texts),
    )


def check_possible(posterior: Posterior, num_train: int, settings: TrainingSettings) -> None:
    """Complain where a fit could not end, before anything is loaded or written.

    Raises:
        InputError: The training is too short for the posterior.
        MissingAssetError: The posterior needs a package that is not installed.
    """
    if isinstance(posterior, SWAG):
        snapshot_steps(posterior, settings.num_steps(num_train))
    if isinstance(posterior, IVON):
        require_ivon()


def _natural(posterior: IVON, weights: IVONWeights, adapter: Adapter) -> WeightTraining:
    optimizers: list[Optimizer] = []

    def build(parameters: list[nn.Parameter]) -> Optimizer:
        optimizer = build_ivon(
            parameters,
            lr=posterior.lr or adapter.learning_rate() / posterior.clip_radius,
            ess=posterior.ess,
            hess_init=posterior.hess_init,
            beta1=posterior.beta1,
            beta2=posterior.beta2,
            weight_decay=posterior.weight_decay,
            clip_radius=posterior.clip_radius,
        )
        optimizers.append(optimizer)
        return optimizer

    return WeightTraining(
        noise=lambda _: sampled(optimizers[-1]),
        callbacks=(Curvature(weights, optimizers),),
        optimizer=build,
    )
