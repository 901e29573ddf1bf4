"""`Plan`: what was chosen for a classifier, from the door to the record and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bayeslora import options
from bayeslora.adapters.base import Adapter
from bayeslora.adapters.registry import DEFAULT_ADAPTER, resolve_adapter
from bayeslora.backbones.load import Backbone, lasting_name
from bayeslora.backbones.reading import ALL_LAYERS, Verbaliser
from bayeslora.backbones.template import RAW, Template
from bayeslora.checkpoint import ADAPTED, ModelRecord
from bayeslora.engine.training_options import CHOSEN, TrainingSettings
from bayeslora.errors import InputError
from bayeslora.option_checks import MAX_LENGTH, Count, Depth, Dtype, Format, Seed, checked
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.feature_scores import feature_scores
from bayeslora.posteriors.registry import DEFAULT_POSTERIOR, resolve_posterior


@dataclass(frozen=True)
class Plan:
    """What was chosen for a classifier; None stands for a default that depends on the data.

    The constructor is the door: it takes what a user writes, such as names, and checks it.
    `engine/settle.py` decides what was left open, once. A record has the entries of `recorded`, of
    which `of` makes an equal plan.

    Attributes:
        backbone: Its name; None for the usual one for the rows, `auto` for the best installed one.
        dtype: Requested dtype of the frozen weights.
        adapter: Options of the adapter.
        posterior: Options of the posterior.
        seed: Seed of initialisation, order and draws.
        max_length: Tokens per text; longer texts are truncated.
        depth: Number or share of backbone layers to use; 1.0 for all.
        template: Template around each text.
        verbaliser: How to get a prior mean from the language model.
        format: How questions are read; None for texts, too.
        feature_scores: Names of scores to fit beside the posterior.
        training: How adapter and last layer are trained.
        chosen: Names of the options of training that a user set.
        logit_scale: Factor of the fitted network's logits; None for the factor of lowest NLL on
            the validation rows.
        progress: Whether to show bars on stderr.

    Raises:
        InputError: A name or an option is not allowed.
    """

    backbone: str | None = None
    dtype: str = "auto"
    adapter: Adapter = field(default_factory=lambda: resolve_adapter(DEFAULT_ADAPTER))
    posterior: Posterior = field(default_factory=lambda: resolve_posterior(DEFAULT_POSTERIOR))
    seed: int = 0
    max_length: int = MAX_LENGTH
    depth: float | None = None
    template: Template | None = None
    verbaliser: Verbaliser | None = None
    format: Format | None = None
    feature_scores: Sequence[str] | None = ()
    training: TrainingSettings = field(default_factory=TrainingSettings)
    chosen: frozenset[str] = frozenset()
    logit_scale: float | None = 1.0
    progress: bool = True

    def __post_init__(self) -> None:
        """Check every choice and convert it to its type."""
        kinds = {
            "backbone": str | None,
            "dtype": Dtype,
            "depth": Depth | None,
            "verbaliser": Verbaliser | None,
            "format": Format | None,
            "seed": Seed,
            "max_length": Count,
        }
        values: dict[str, Any] = {
            "adapter": resolve_adapter(self.adapter),
            "posterior": resolve_posterior(self.posterior),
            "feature_scores": feature_scores(self.feature_scores),
            **{name: checked(name, getattr(self, name), kind) for name, kind in kinds.items()},
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def for_fit(self, scores: str | Sequence[str] | None, keywords: Mapping[str, Any]) -> Plan:
        """Return the plan of a fit with some options.

        Args:
            scores: Feature scores, as for `BayesianClassifier.fit`.
            keywords: Those of `FitOptions`; None leaves an option open.

        Raises:
            InputError: An option is not allowed, or has no effect.
        """
        chosen = {
            name: value for name, value in keywords.items() if name in CHOSEN and value is not None
        }
        training = TrainingSettings(**chosen, seed=self.seed)
        self._refuse_idle(training, chosen)
        return replace(
            self, feature_scores=feature_scores(scores), training=training, chosen=frozenset(chosen)
        )

    def _refuse_idle(self, training: TrainingSettings, chosen: Iterable[str]) -> None:
        """Raise InputError for options of training that have no effect on these methods."""
        adapter, posterior, reason = self.adapter, self.posterior, ""
        if not adapter.trains:
            reason = "fits the last layer alone, as does --quick"
        elif adapter.trains_itself:
            reason = f"{adapter.trains_itself}, by options of its own"
        for name in chosen:
            default = None if name in training.unset else getattr(TrainingSettings, name)
            moves = name not in training.of_rows and getattr(training, name) != default
            if reason and moves:
                raise InputError(
                    f"{name} has no effect with adapter {adapter.name!r}, which {reason}; leave it "
                    "out, or choose another adapter",
                    code="no-effect",
                    options=(name, "adapter"),
                )
        if "head_lr" in chosen and posterior.head_lr is not None:
            lr = f"head_lr={training.head_lr:g}"
            raise InputError(
                f"head_lr has no effect on posterior {posterior.name!r}; set its own option "
                f"instead: {type(posterior).__name__}({lr}), --posterior {posterior.name}:{lr}",
                code="no-effect",
            )

    def recorded(self, backbone: Backbone | None = None) -> dict[str, Any]:
        """Return the entries of a model's record that hold the plan, JSON-ready.

        Args:
            backbone: The loaded backbone, for what identifies it.
        """
        frame = None if self.template is None else self.template.frame
        reading = {
            "depth": None if self.depth == ALL_LAYERS else self.depth,
            "template": None if frame == RAW else frame,
            "verbaliser": self.verbaliser,
            "format": self.format,
        }
        loaded: dict[str, Any] = {}
        if backbone is not None:
            loaded = {
                "fingerprint": backbone.fingerprint,
                "settings": backbone.settings,
                "kind": ADAPTED,
            }
        return {
            "backbone": {
                "name": lasting_name(self.backbone) if self.backbone else None,
                "dtype": self.dtype,
                **{name: value for name, value in reading.items() if value is not None},
                **loaded,
            },
            "adapter": self.adapter.recorded(),
            "posterior": options.as_mapping(self.posterior),
            "max_length": self.max_length,
            "seed": self.seed,
            "training": self.training.recorded(),
        }

    @classmethod
    def of(cls, record: ModelRecord) -> Plan:
        """Return the plan of a model, with which it can be fitted again.

        Raises:
            InputError: No installed package provides its adapter or posterior, or an option is not
                allowed.
        """
        reading = record.backbone
        adapter = {} if record.adapter is None else {"adapter": resolve_adapter(record.adapter)}
        return cls(
            backbone=reading["name"],
            posterior=resolve_posterior(record.posterior),
            dtype=reading["dtype"],
            seed=record.seed,
            max_length=record.max_length,
            depth=reading.get("depth") or ALL_LAYERS,
            template=Template(reading.get("template") or RAW),
            verbaliser=reading.get("verbaliser"),
            format=reading.get("format"),
            feature_scores=tuple(record.feature_scores),
            training=TrainingSettings(**record.training),
            **adapter,
        )
