"""What was chosen for a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bayeslora.adapters.base import Adapter
from bayeslora.backbones.depth import Depth
from bayeslora.backbones.template import Template
from bayeslora.backbones.verbaliser import Verbaliser
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.option_checks import Format
from bayeslora.posteriors.base import Posterior


@dataclass(frozen=True)
class Plan:
    """What was chosen for a classifier; None stands for a default that depends on the data.

    Attributes:
        backbone: Its name.
        dtype: Requested dtype of the frozen weights.
        adapter: Options of the adapter.
        posterior: Options of the posterior.
        seed: Seed of initialisation, order and draws.
        max_length: Tokens per text; longer texts are truncated.
        progress: Whether to show bars on stderr.
        feature_scores: Names of scores to fit beside the posterior.
        depth: Number or share of backbone layers to use, or `auto`.
        template: Template around each text.
        verbaliser: How to get a prior mean from the language model.
        format: How questions are read; None for texts, too.
        training: How adapter and last layer are trained.
        logit_scale: Factor of the fitted network's logits; None for the factor of lowest NLL on
            the validation rows.
    """

    backbone: str
    dtype: str
    adapter: Adapter
    posterior: Posterior
    seed: int
    max_length: int
    progress: bool
    feature_scores: Sequence[str] | None = ()
    depth: Depth | None = None
    template: Template | None = None
    verbaliser: Verbaliser | None = None
    format: Format | None = None
    training: TrainingSettings = field(default_factory=TrainingSettings)
    logit_scale: float | None = 1.0
