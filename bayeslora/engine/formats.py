"""Formats of questions with options.

letters   the prompt lists the options; the classes are letters, as in published tables
options   every option is scored after the question, by one weight vector for all
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bayeslora.backbones import options as option_reading
from bayeslora.backbones.load import Backbone
from bayeslora.backbones.template import FILLED, Template, at_blank
from bayeslora.backbones.verbaliser import tokens_after
from bayeslora.data.examples import LETTERS, Examples
from bayeslora.data.questions import with_shuffled_options
from bayeslora.engine.plan import Plan
from bayeslora.errors import InputError
from bayeslora.option_checks import Format

LETTERS_FRAME = "Pick the correct option.\n{text}\nAnswer:"
LETTERS_PAIR_FRAME = "Pick the correct option.\n{text_pair}\n{text}\nAnswer:"
"""Default templates of the format `letters`; `{text}` is the question with its options, each on its
own line after its letter."""


def settled(plan: Plan, rows: Examples) -> Plan:
    """Return the choices with defaults for questions, if the rows are questions.

    Raises:
        InputError: An option has no effect on such rows.
    """
    template = plan.template
    alone = rows.choices is None or plan.format == "letters"
    if template is not None and template.fills and alone:
        raise InputError(
            f"template {template.frame!r} has {FILLED}, which needs questions with options and "
            "the format 'options'; use {text} instead"
        )
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
    if plan.verbaliser not in (None, "none"):
        raise InputError(
            "verbaliser has no effect on the format 'options', in which the language model "
            "scores the options themselves; leave it out",
            code="no-effect",
        )
    if layers == "auto":
        raise InputError(
            "depth 'auto' needs one feature per row, but the format 'options' has one per "
            "option; leave depth out"
        )
    scores = feature_scores(format, plan.feature_scores)
    return replace(plan, format=format, depth=layers, feature_scores=scores, verbaliser="none")


def feature_scores(format: Format | None, names: Sequence[str] | None) -> Sequence[str] | None:
    """Return the feature scores to fit: none in the format `options`.

    Args:
        format: Format of questions; None for texts.
        names: Names of the scores; None for the default.

    Raises:
        InputError: Scores are requested for `options`, where every option has its own feature.
    """
    if format != "options":
        return names
    if names:
        raise InputError(
            "feature scores need one feature per row, but the format 'options' has one per "
            "option; leave feature_scores out"
        )
    return ()


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
    if all(at_blank(text) for rows in (train, held_out) if rows is not None for text in rows.texts):
        plain, paired = option_reading.FILLING_FRAME, option_reading.PAIR_FILLING_FRAME
    else:
        plain, paired = option_reading.FRAME, option_reading.PAIR_FRAME
    return Template(paired if pairs else plain)


def check_backbone(format: Format | None, whole: Backbone, cut: Backbone, classes: int) -> None:
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
    if whole.template is not None and whole.template.fills and whole.kind != "decoder":
        raise InputError(
            f"template {whole.template.frame!r} is for language models, but {whole.name} is an "
            "encoder, which reads each option next to its question; leave template (--template) "
            "out"
        )
    if format == "options" and whole.kind == "decoder" and cut.depth is not None:
        raise InputError(
            f"format 'options' needs all layers of {whole.name} for the language model's answer; "
            "leave depth (--depth) out"
        )
    if format != "letters":
        return
    if whole.kind != "decoder":
        raise InputError(
            f"{whole.name} is an encoder, which cannot answer with a letter; choose the format "
            "'options', or a decoder"
        )
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
