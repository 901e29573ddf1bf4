"""What was chosen for a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.registry import resolve_adapter
from bayeslora.backbones.depth import Depth
from bayeslora.backbones.template import Template
from bayeslora.backbones.verbaliser import Verbaliser
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.option_checks import MAX_LENGTH, Format
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.registry import resolve_posterior


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

    backbone: str = ""
    dtype: str = "auto"
    adapter: Adapter = field(default_factory=lambda: resolve_adapter("polar"))
    posterior: Posterior = field(default_factory=lambda: resolve_posterior("vbll"))
    seed: int = 0
    max_length: int = MAX_LENGTH
    progress: bool = True
    feature_scores: Sequence[str] | None = ()
    depth: Depth | None = None
    template: Template | None = None
    verbaliser: Verbaliser | None = None
    format: Format | None = None
    training: TrainingSettings = field(default_factory=TrainingSettings)
    logit_scale: float | None = 1.0
