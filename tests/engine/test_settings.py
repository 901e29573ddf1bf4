"""Training options, reading of data, and progress output."""

import dataclasses
import logging
import time
from typing import Any, get_args, get_type_hints

import pytest
from refusal import refused
from transformers.utils import logging as transformers_logging

from bayeslora import BayesianClassifier
from bayeslora.backbones.template import Template
from bayeslora.checkpoint import ADAPTED, FOREIGN, ModelRecord
from bayeslora.cli import build_parser
from bayeslora.data.columns import DataColumns
from bayeslora.data.read import read
from bayeslora.engine import progress as bars
from bayeslora.engine.data import encode_for
from bayeslora.engine.plan import Plan
from bayeslora.engine.progress import progress_bar, quiet_transformers
from bayeslora.engine.training_options import CHOSEN, ColumnNames, FitOptions, TrainingSettings
from bayeslora.errors import InputError
from bayeslora.option_checks import meanings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be"),
        ({"batch_size": True}, "batch_size must be"),
        ({"head_lr": 0}, "head_lr must be"),
        ({"head_lr": float("nan")}, "head_lr must be"),
        ({"warmup": 1}, "warmup must be"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InputError) as caught:
        TrainingSettings(**{"epochs": 1} | options)
    assert message in str(caught.value)
    assert str(caught.value).endswith(f"got {next(iter(options.values()))!r}")


SET_BY_A_FIT = {"warmup", "max_grad_norm", "seed", "choose_epochs", "stop_after"}
NOT_TRAINING = {"report_to"}
"""Options that change no training."""


def test_every_option_of_training_is_a_keyword_of_fit():
    fields = {item.name for item in dataclasses.fields(TrainingSettings)}
    columns = ColumnNames.__annotations__.keys()
    assert FitOptions.__annotations__.keys() - columns == fields - SET_BY_A_FIT
    assert {*CHOSEN} == fields - SET_BY_A_FIT


@pytest.mark.parametrize("name", CHOSEN)
def test_an_option_of_fit_is_its_field_everywhere(name):
    meaning = meanings(TrainingSettings)[name]
    assert f"\n    {name}: {meaning[:12]}" in BayesianClassifier.fit.__doc__
    action = build_parser().parse_args(["fit"]).actions[name]
    assert [*action.option_strings] in ([], [f"--{name.replace('_', '-')}"])
    assert meaning.removeprefix("Whether to ")[1:12] in action.help
    assert action.default is None  # so that the field's default applies
    assert (name in TrainingSettings().recorded()) is (name not in NOT_TRAINING)
    field, keyword = (get_type_hints(kind)[name] for kind in (TrainingSettings, FitOptions))
    assert keyword is Any or {*get_args(keyword), keyword} >= ({*get_args(field)} or {field})


def test_a_plan_reads_back_from_its_record():
    plan = Plan(
        "x",
        adapter="lora:r=3",
        posterior="vbll:prior_scale=2",
        depth=4,
        template=Template("{text}:"),
        verbaliser={"a": "one", "b": "two"},
        training=TrainingSettings(3, cv="auto"),
    )
    fitted = dataclasses.replace(record(ADAPTED, "ab"), **plan.recorded())
    assert Plan.of(fitted) == plan


def record(kind, classes):
    return ModelRecord(
        backbone={"name": "x", "fingerprint": "f", "kind": kind, "dtype": "auto"},
        posterior={"name": "mle"},
        classes=list(classes),
        columns={"text": "text", "label": "label", "pair": None},
        max_length=8,
        seed=0,
        num_train=1,
    )


def labelled(*labels):
    return read([{"text": f"t{n}", "label": item} for n, item in enumerate(labels)], DataColumns())


@pytest.mark.parametrize(
    ("kind", "classes", "labels", "expected"),
    [
        (ADAPTED, ("a", "b"), ("b", "a", None), [1, 0, -1]),
        (ADAPTED, ("1", "2", "3"), (1, 3), [0, 2]),
        (FOREIGN, ("bad", "good"), ("good", "bad"), [1, 0]),
        (FOREIGN, ("bad", "good"), (1, 0), [1, 0]),
        (FOREIGN, ("bad", "good"), (1, None), [1, -1]),
        # Stars from 1 to 3 are names, not indices.
        (FOREIGN, ("1", "2", "3"), (1, 3), [0, 2]),
        (FOREIGN, ("-1", "0", "1"), (-1, 1), [0, 2]),
    ],
)
def test_labels_become_indices(kind, classes, labels, expected):
    assert encode_for(record(kind, classes), labelled(*labels)).tolist() == expected


def test_an_index_that_no_class_has_is_refused():
    with refused("unknown", "label 2"):
        encode_for(record(FOREIGN, ("bad", "good")), labelled(0, 2))
    with refused("unknown", "label 0"):
        encode_for(record(ADAPTED, ("bad", "good")), labelled(0, 1))


def test_transformers_is_quiet_inside_and_as_before_outside():
    def state():
        return transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()

    def fail_inside():
        with quiet_transformers():
            assert state() == (logging.ERROR, False)
            raise RuntimeError

    before = state()
    with pytest.raises(RuntimeError):
        fail_inside()
    assert state() == before


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_a_bar(capsys):
    with progress_bar("ti\x1btle", 3, shown=True) as advance:
        advance(3)
    shown = capsys.readouterr()
    assert "ti\\x1btle: 100%" in shown.err
    assert "\r" in shown.err
    assert shown.out == ""


def test_a_log_shows_long_work_alone(capsys, monkeypatch):
    with progress_bar("read", 3, shown=True, unit="text") as advance:
        advance(3)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(bars, "_SECONDS", 0.01)
    with progress_bar("read", 3, shown=True, unit="text") as advance:
        for _ in range(3):
            time.sleep(0.02)
            advance(1)
    assert "read: 100%" in capsys.readouterr().err
