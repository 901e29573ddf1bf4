"""Build an unfitted network from choices: depth, adapter, last layer, posterior over weights.

Formats of questions with options:

letters   the prompt lists the options; the classes are letters, as in published tables
options   every option is scored after the question, by one weight vector for all
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.inject import inject, lay_out
from bayeslora.backbones.encoder import POOLING, Encoder
from bayeslora.backbones.load import Backbone
from bayeslora.backbones.reading import tokens_after
from bayeslora.backbones.template import Template, at_blank
from bayeslora.data.examples import LETTERS, Examples
from bayeslora.data.questions import with_shuffled_options
from bayeslora.engine.network import Network, under
from bayeslora.engine.plan import Plan
from bayeslora.errors import InputError
from bayeslora.option_checks import Format
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.registry import build_head, build_weights, check_factors, names_where
from bayeslora.posteriors.types import LastLayer


def build_network(
    backbone: Backbone,
    plan: Plan,
    num_classes: int,
    *,
    rows: Examples | None = None,
    extra: Mapping[str, Any] | None = None,
    trained: Mapping[str, Tensor] | None = None,
) -> Network:
    """Return a fresh network on a clone of `backbone` that shares its tensors.

    Args:
        backbone: Frozen backbone; stays without adapters.
        plan: What was chosen.
        num_classes: C.
        rows: Training rows, if it will be trained.
        extra: `extra_config()` of a fitted head, if tensors of a fitted head and posterior will be
            loaded.
        trained: `trained_state()` of that network, which determines shapes.

    Raises:
        InputError: The adapter does not fit the backbone or the posterior, or the posterior does
            not fit the network.
    """
    posterior, seed = plan.posterior, plan.seed
    chosen = adapter_for(plan.adapter, posterior)
    clone = backbone.clone()
    # Fitted weights are never decomposed again, since a random start would differ. Adapters that
    # start from rows are initialised later, when the network of these sites has run them.
    is_fitted = extra is not None
    sites = inject(clone.model, chosen, seed, blank=is_fitted) if chosen.has_sites else []
    stored = under("adapter.", trained or {})
    lay_out(sites, stored)
    names = [site.name for site in sites]
    path, start = chosen.first_layer(clone.model, names, is_cut=clone.depth is not None)
    reads_options = plan.format == "options"
    make = Encoder
    if reads_options:  # imported where it is used
        from bayeslora.backbones.options import OptionsEncoder

        make = OptionsEncoder
    encoder = make(
        clone,
        layers_path=path,
        start=start,
        max_length=plan.max_length,
        pooling=chosen.pooling_of(
            POOLING[clone.kind], reads_end=clone.kind == "decoder" and clone.template is not None
        ),
    )
    if sites and posterior.calls_once:
        _check_called_once(encoder, names, posterior)
    head = build_head(
        posterior, encoder.num_features, num_classes, shared=reads_options, seed=seed, extra=extra
    )
    if reads_options and clone.kind == "decoder" and not is_fitted:
        # The weights of options start at the language model's own answer.
        answer = torch.zeros_like(head.mean_weight)
        answer[:, -1] = 1.0
        head.set_prior_mean(answer)
    network = Network(encoder, sites, head)
    encoder.companion = chosen.companion(network, rows)
    if encoder.companion is not None:
        encoder.companion.resize(stored)
    if chosen.trains:
        network.weights = build_weights(posterior, network, seed, fitted=is_fitted)
    return network.to(backbone.device)


def adapter_for(adapter: Adapter, posterior: Posterior) -> Adapter:
    """Return the adapter with the options that the posterior needs, such as dropout.

    Raises:
        InputError: The adapter and the posterior cannot be combined.
    """
    if not adapter.trains:
        check_last_layer(posterior, adapted=False)
        return adapter
    check_combination(adapter, posterior)
    check_factors(posterior, low_rank=adapter.has_factors)
    return posterior.adapter_for(adapter)


def check_combination(adapter: Adapter, posterior: Posterior) -> None:
    """Raise InputError if the adapter refuses the posterior."""
    reason = adapter.refuses(posterior)
    if reason:
        raise InputError(
            f"posterior {posterior.name!r} cannot be combined with adapter {adapter.name!r}, which "
            f"{reason}",
            code="not-with-adapter",
        )


def _check_called_once(encoder: Encoder, names: Sequence[str], posterior: Posterior) -> None:
    calls = encoder.count_calls()
    shared = [name for name in names if calls[name] > 1]
    if shared:
        raise InputError(
            f"layers of {encoder.backbone.name} share their weights: {shared[0]} is called "
            f"{calls[shared[0]]} times per pass, but posterior {posterior.name!r} draws or "
            "measures weights separately at each call",
            code="shared-layers",
        )


def last_layer(
    posterior: Posterior, weight: Tensor, seed: int = 0, *, shared: bool = False
) -> LastLayer:
    """Return an unfitted last layer that starts from [C, d] weights.

    Args:
        posterior: Options of a posterior that passes `check_last_layer`.
        weight: [C, d].
        seed: Seed of its draws.
        shared: Whether all options of a row share one weight vector, [1, d].
    """
    classes, width = weight.shape
    head = build_head(posterior, width, classes, shared=shared, seed=seed)
    head.set_mean(weight)
    return head


def check_last_layer(posterior: Posterior, *, adapted: bool = True, gated_by: str = "") -> None:
    """Raise InputError if a posterior cannot be fitted to a finished network.

    Args:
        posterior: Options of the posterior.
        adapted: Whether the network was adapted here, or has the adapters of a checkpoint.
        gated_by: Name of the posterior whose gates the adapters need, if any.

    Raises:
        InputError: The posterior is neither over the last layer nor fitted to trained adapters that
            the network has; or it would replace a posterior whose gates the network needs.
    """
    if gated_by:
        raise InputError(
            f"a network fitted with posterior {gated_by!r} takes no other posterior: its adapters "
            "need the gates",
            code="gated",
        )
    if posterior.over_trained and not adapted:
        raise InputError(
            f"posterior {posterior.name!r} is over the weights of an adapter, and this classifier "
            "has none",
            code="no-adapter",
        )
    if posterior.from_start:
        names = names_where(lambda config: not (config.from_start or config.over_trained))
        raise InputError(
            f"posterior {posterior.name!r} cannot be fitted to a finished network, or without an "
            f"adapter (--quick): it {posterior.from_start}; choose one of {names}",
            code="from-start",
        )


LETTERS_FRAME = "Pick the correct option.\n{text}\nAnswer:"
LETTERS_PAIR_FRAME = "Pick the correct option.\n{text_pair}\n{text}\nAnswer:"
"""Default templates of the format `letters`; `{text}` is the question with its options, each on its
own line after its letter."""


def with_format(plan: Plan, rows: Examples) -> Plan:
    """Return the choices with defaults for questions, if the rows are questions.

    Raises:
        InputError: A format is chosen, and the rows are texts.
    """
    if rows.choices is None:
        if plan.format is not None:
            raise InputError(
                f"format {plan.format!r} is for questions with options, but {rows.source} has "
                "texts; leave format out"
            )
        return plan
    format: Format = plan.format or "options"
    layers = 1.0 if plan.depth is None else plan.depth
    if format == "letters":
        return replace(plan, format=format, depth=layers, verbaliser=plan.verbaliser or "names")
    # The language model scores the options themselves, and each option has a feature of its own.
    return replace(plan, format=format, depth=layers, feature_scores=(), verbaliser="none")


def rows_to_fit(rows: Examples, format: Format | None, seed: int) -> Examples:
    """Return rows as a fit reads them: with letters, candidates for the next item are shuffled.

    Lists of candidates often have a fixed order, such as the right one first, and a last layer with
    a row per letter would learn the position. Rows to predict keep their order.

    Args:
        rows: Training rows.
        format: Format of questions; None for texts.
        seed: Seed of the fit.
    """
    if format != "letters" or rows.history is None:
        return rows
    return with_shuffled_options(rows, seed)


def default_template(
    plan: Plan, backbone: Backbone, train: Examples, held_out: Examples | None = None
) -> Template | None:
    """Return the template of a fit, by default that of its format.

    Args:
        plan: The settled plan.
        backbone: Loaded backbone.
        train: Questions, whose options fill their blanks if all questions have one.
        held_out: Held-out questions, or None.
    """
    pairs = train.pairs is not None
    if plan.format is None or plan.template is not None or backbone.template is not None:
        return plan.template
    if backbone.kind != "decoder":
        return None
    if plan.format == "letters":
        return Template(LETTERS_PAIR_FRAME if pairs else LETTERS_FRAME)
    from bayeslora.backbones import options as option_reading

    if all(at_blank(text) for rows in (train, held_out) if rows is not None for text in rows.texts):
        plain, paired = option_reading.FILLING_FRAME, option_reading.PAIR_FILLING_FRAME
    else:
        plain, paired = option_reading.FRAME, option_reading.PAIR_FRAME
    return Template(paired if pairs else plain)


def check_format(format: Format | None, whole: Backbone, cut: Backbone, classes: int) -> None:
    """Raise InputError if a backbone cannot read questions in a format.

    Args:
        format: Format of questions; None for texts.
        whole: Backbone with all its layers and its template.
        cut: Backbone at its depth.
        classes: Number of letters.

    Raises:
        InputError: Letters need a decoder with one token for each; options of a decoder need all
            its layers.
    """
    if format == "options" and whole.kind == "decoder" and cut.depth is not None:
        raise InputError(
            f"format 'options' needs all layers of {whole.name} for the language model's answer; "
            "leave depth (--depth) out"
        )
    if format != "letters":
        return
    known: list[Sequence[int]] = [[whole.tokenizer.unk_token_id]]
    for letter in LETTERS[:classes]:
        ids = list(tokens_after(whole.tokenizer, whole.template, letter))
        if len(ids) != 1 or ids in known:
            raise InputError(
                f"the tokenizer of {whole.name} has no separate token for the letter {letter!r} "
                "after the template; end the template with 'Answer:', or choose the format "
                "'options'"
            )
        known.append(ids)
