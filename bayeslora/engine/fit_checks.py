"""Checks of a fit before anything is loaded, and the facts that a posterior may ask about it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from bayeslora.adapters.base import Adapter
from bayeslora.backbones.verbaliser import class_words
from bayeslora.engine.cross_validation import divided, held_out_parts
from bayeslora.engine.data import TrainingData, check_hold_out
from bayeslora.engine.plan import Plan
from bayeslora.engine.progress import require_tracker
from bayeslora.engine.training.layer_sampling import check_sampling
from bayeslora.engine.training_options import TrainingSettings, default_epochs
from bayeslora.errors import InputError
from bayeslora.posteriors.base import FEW_ROWS, FitFacts, Posterior
from bayeslora.posteriors.feature_scores import MAHALANOBIS, check_feature_scores
from bayeslora.posteriors.registry import build_head, names_where
from bayeslora.processes import current

logger = logging.getLogger(__name__)

_PRECISION = "ACCELERATE_MIXED_PRECISION"


def fit_facts(plan: Plan, data: TrainingData) -> FitFacts:
    """Return the facts about the fit that the posterior may use."""
    return FitFacts(
        num_classes=len(data.classes),
        num_rows=len(data.rows),
        epochs=plan.training.epochs,
        batch_size=plan.training.batch_size,
        adapter_trains=plan.adapter.trains,
        head_trains=plan.adapter.trains and plan.adapter.episodes is None,
        is_validated=data.validation is not None,
        cross_validates=bool(plan.training.cv),
    )


def check_fit(plan: Plan, data: TrainingData) -> None:
    """Raise InputError if the options do not fit together, before anything is loaded."""
    posterior = plan.posterior
    require_tracker(plan.training.report_to)
    if current().size > 1:
        _check_shared(plan.adapter, posterior)
    if plan.training.cv and data.validation is not None:
        raise InputError(
            "cv and validation data both provide held-out rows; use only one of them",
            code="clash",
        )
    # Refuses fewer rows or groups than parts.
    strata = data.rows.strata(data.train[1].numpy())
    held_out_parts(strata, plan.training.cv, plan.training.seed, groups=data.rows.groups)
    facts = fit_facts(plan, data)
    if plan.training.quality_retaining is not None and data.rows.choices is not None:
        raise InputError(
            "quality_retaining keeps rows near others of their class, but the options of a "
            "question are not classes; leave it out"
        )
    if plan.training.keep_folds:
        _check_keep_folds(plan)
    check_feature_scores(plan.feature_scores, posterior)
    if MAHALANOBIS & {*(plan.feature_scores or ())} and not _differ(data):
        raise InputError(
            "Mahalanobis distances need a class with different texts, but every class has only "
            "one text; leave that feature score out, or give more rows"
        )
    plan.adapter.check_rows(data.rows)
    if plan.adapter.episodes is not None and (plan.training.cv or plan.training.keep_folds):
        raise InputError(
            f"cv and keep_folds fit to parts of the rows, but adapter {plan.adapter.name!r} "
            "trains on episodes; leave them out, or give validation data",
            code="not-in-episodes",
        )
    if plan.format == "options":
        build_head(posterior, 2, 1, shared=True)  # refused before the backbone is loaded
    check_sampling(plan.adapter, posterior, plan.training.layer_sampling)
    posterior.check_fit(facts)
    if isinstance(plan.verbaliser, Mapping):
        class_words(data.classes, plan.verbaliser)
    if (precision := os.environ.get(_PRECISION, "no")) not in ("no", ""):
        logger.warning(
            "%s=%s has no effect: dtype (--dtype) sets the precision", _PRECISION, precision
        )


def _check_shared(adapter: Adapter, posterior: Posterior) -> None:
    """Raise InputError if several processes cannot share the training."""
    subject, reason = f"posterior {posterior.name!r}", posterior.not_shared
    if adapter.episodes is not None:
        subject, reason = f"adapter {adapter.name!r}", "trains on few-shot episodes"
    if adapter.trains and reason:
        raise InputError(
            f"{subject} cannot be trained by several processes: it {reason}; start a single "
            "process, without torchrun or accelerate launch",
            code="not-shared",
        )


def check_division(plan: Plan, data: TrainingData) -> None:
    """Raise InputError if `hold_out` or `refit` cannot be used in this fit."""
    check_hold_out(plan.training.hold_out, validated=data.validation is not None)
    if plan.training.cv:
        raise InputError(
            "hold_out and cv both provide held-out rows; use only one of them", code="clash"
        )
    if plan.training.refit and plan.posterior.learns_from == "validation":
        raise InputError(
            f"refit leaves no rows to fit posterior {plan.posterior.name!r} to; leave refit "
            "out, or use cv with posterior 'mle', whose logit scale is an inverse temperature",
            code="clash",
        )


def _check_keep_folds(plan: Plan) -> None:
    """Raise InputError if the fits of `cv` cannot be averaged."""
    posterior = plan.posterior
    if not (posterior.is_point or posterior.scales_logits):
        raise InputError(
            f"keep_folds does not support posterior {posterior.name!r}, only "
            f"{names_where(lambda config: config.is_point or config.scales_logits)}; leave it out",
            code="clash",
        )
    if not plan.adapter.trains:
        raise InputError(
            "keep_folds has no effect without an adapter; leave it out", code="no-effect"
        )
    if plan.feature_scores:
        raise InputError(
            "feature scores need one set of features, but keep_folds has several; leave one of "
            "the two out",
            code="clash",
        )


def _differ(data: TrainingData) -> bool:
    """Return whether a class has training rows with different texts."""
    rows = data.rows
    pairs = rows.pairs or [None] * len(rows)
    return len({*zip(rows.texts, pairs, rows.labels, strict=True)}) > len(data.classes)


def refuse_training_options(adapter: Adapter, trained: Mapping[str, Any]) -> None:
    """Raise InputError if a training option has no effect with an adapter.

    Args:
        adapter: Options of the adapter; it may train on episodes, or not at all.
        trained: Options of `BayesianClassifier.fit`; None or the default if not passed.
    """
    if adapter.trains and adapter.episodes is None:
        return
    defaults = {"batch_size": TrainingSettings.batch_size, "patience": TrainingSettings.patience}
    for name, value in trained.items():
        if value != defaults.get(name):
            reason = "fits the last layer alone"
            if adapter.trains:
                reason = "trains on few-shot episodes and has its own option for their number"
            raise InputError(
                f"{name} has no effect with adapter {adapter.name!r}, which {reason}; leave it "
                "out, or choose an adapter such as 'polar' or 'lora'",
                code="no-effect",
            )


def with_training(
    plan: Plan,
    data: TrainingData,
    trained: Mapping[str, Any],
    *,
    cv: int | Literal["auto"] | None,
    hold_out: float,
    **others: Any,
) -> Plan:
    """Return the plan with training options, whose defaults depend on the method and the rows.

    Args:
        plan: What was chosen.
        data: Training and validation data.
        trained: As for `refuse_training_options`.
        cv: As for `BayesianClassifier.fit`.
        hold_out: As for `BayesianClassifier.fit`.
        **others: `keep_folds` and `refit`.

    Raises:
        InputError: An option is not allowed, or has no effect.
    """
    posterior, adapter = plan.posterior, plan.adapter
    validated = data.validation is not None or bool(hold_out)
    chosen = {name: value for name, value in trained.items() if value is not None}
    if "head_lr" in chosen and posterior.head_lr is not None:
        lr = f"head_lr={chosen['head_lr']:g}"
        raise InputError(
            f"head_lr has no effect on posterior {posterior.name!r}; set its own option instead: "
            f"{type(posterior).__name__}({lr}), --posterior {posterior.name}:{lr}",
            code="no-effect",
        )
    by_rows = adapter.trains and adapter.episodes is None
    if cv is None:
        # Few rows without an adapter choose the prior by cross-validation instead.
        scales = by_rows or (not adapter.trains and len(data.rows) > FEW_ROWS)
        cv = "auto" if posterior.scales_logits and not validated and scales else 0
    is_open = "epochs" not in chosen
    if is_open:
        chosen["epochs"] = default_epochs(posterior, len(data.rows), validated=validated)
    settings = TrainingSettings(**chosen, cv=cv, hold_out=hold_out, seed=plan.seed, **others)
    chooses = is_open and settings.cv and by_rows and _chooses_epochs(posterior, adapter, settings)
    if chooses and any(len(fold.unseen) for fold in divided(*data.train, settings)):
        epochs = default_epochs(posterior, len(data.rows), validated=False, cross_validated=True)
        settings = replace(settings, epochs=epochs, choose_epochs=True)
    if settings.patience != TrainingSettings.patience and not validated:
        logger.warning(
            "patience (--patience) has no effect without validation (--validation) or hold_out "
            "(--hold-out), because it monitors the validation NLL"
        )
    return replace(plan, training=settings)


def _chooses_epochs(posterior: Posterior, adapter: Adapter, settings: TrainingSettings) -> bool:
    """Return whether a network may end at any stage; a layer may not have been drawn by then."""
    samples = adapter.layer_sampling or settings.layer_sampling
    return posterior.chooses_epoch and not (samples and posterior.not_idle)
