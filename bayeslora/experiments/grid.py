"""Grids: tasks × backbones × methods × rows × seeds, read from YAML.

A grid's keys and values are the fields of pydantic models. All checks here work without data and
models, so a typo is found in less than a second.

Evaluation protocols by name: training, its length, and the reported rows.

A protocol is one entry of `protocols.yaml`. Settings of a published protocol that `fit` cannot
express are listed in `deviations`, which are in the record of every cell and above its tables.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from reprlib import repr as shortened
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from bayeslora.backbones.embedded import QUESTIONS
from bayeslora.errors import InputError, MissingAssetError, located, unknown_choice
from bayeslora.io import read_yaml
from bayeslora.metrics.calibration import NUM_BINS
from bayeslora.option_checks import Count, Draws, Link, Seed, Share


class Protocol(BaseModel):
    """How the cells of a grid are trained and scored.

    Attributes:
        seeds: Default seeds.
        split: The reported split: `test` or `validation`.
        draws_rows: Whether the grid sets a number of labelled rows that each seed draws.
        steps: Optimiser steps; None leaves the length of the training to `fit`.
        fit: Options of `fit`.
        model: Options of `BayesianClassifier`; `format` is of questions alone.
        adapter: Options of the adapter, as far as it has them.
        weight_samples: Forward passes of a posterior that draws weights; None uses its default.
        logit_samples: Draws of a posterior with Gaussian logits; None uses its default.
        num_choices: Options per question by task; rows with another number are dropped.
        deviations: Settings of the published protocol that `fit` cannot express.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seeds: tuple[int, ...]
    split: str = "test"
    draws_rows: bool = False
    steps: int | None = None
    fit: Mapping[str, Any] = {}
    model: Mapping[str, Any] = {}
    adapter: Mapping[str, Any] = {}
    weight_samples: int | None = None
    logit_samples: int | None = None
    num_choices: Mapping[str, int] = {}
    deviations: tuple[str, ...] = ()

    def described(self) -> str:
        """Return the settings in one line, for tables."""
        settings = {
            "steps": self.steps,
            **self.fit,
            **self.model,
            **self.adapter,
            "draws": self.weight_samples or self.logit_samples,
            "options of questions": dict(self.num_choices) or None,
        }
        rows = "labelled rows drawn per seed" if self.draws_rows else "all training rows"
        chosen = [f"{name} = {value}" for name, value in settings.items() if value is not None]
        return ", ".join([f"reported on {self.split}", rows, *chosen, f"ECE with {NUM_BINS} bins"])


PROTOCOLS: Mapping[str, Protocol] = TypeAdapter(dict[str, Protocol]).validate_python(
    read_yaml(Path(__file__).with_name("protocols.yaml"))
)
"""All protocols by name."""


T = TypeVar("T")

_RESERVED = ["train", "validation", "test", "reported", "cost"]
"""Names of sets in files and tables."""
_NOT_HERE = ["out", "overwrite", "seed", "progress", "trust_remote_code"]
_NOT_HERE += ["text_column", "label_column", "pair_column", "image_column"]


def _listed(value: Any) -> Any:
    """Return a single value as a list of one."""
    return [*value] if isinstance(value, list | tuple | range) else [value]


def _distinct(values: Iterable[T]) -> list[T]:
    names = [getattr(value, "name", value) for value in values]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name!r} is listed twice")
    return [*values]


def _named_task(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _ood_sources(value: Any) -> Any:
    """Return sources by name; a list names each set as its source."""
    return value if isinstance(value, Mapping) else {str(name): name for name in _listed(value)}


def _own_names(sets: dict[str, str]) -> dict[str, str]:
    """Refuse sets that would have the file name of other rows."""
    _distinct([*_RESERVED, *(set_part(name).lower() for name in sets)])
    return sets


def _known_protocol(name: str) -> str:
    if name not in PROTOCOLS:
        raise unknown_choice("protocol", name, PROTOCOLS)
    return name


def _without_own(options: dict[str, Any]) -> dict[str, Any]:
    """Refuse options that a grid sets elsewhere, and code of a model repository."""
    for key in options:
        if key in _NOT_HERE:
            raise InputError(f"{key} cannot be set here")
    return options


def distribution(values: Any) -> Any:
    """Return Optuna's distribution of a list of values, or of a mapping with `low` and `high`.

    Raises:
        InputError: The values are not allowed, or Optuna is not installed.
    """
    try:
        from optuna import distributions as kinds
    except ImportError:
        raise MissingAssetError(
            "search requires Optuna; run `pip install 'bayeslora[tune]'`"
        ) from None
    try:
        if isinstance(values, list):
            return kinds.CategoricalDistribution(values)
        whole = all(isinstance(values.get(end), int) for end in ("low", "high"))
        return (kinds.IntDistribution if whole else kinds.FloatDistribution)(**values)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{error}; got {values}") from None


def _searchable(values: JsonValue) -> JsonValue:
    distribution(values)
    return values


Name = Annotated[str, Field(min_length=1)]
Options = Annotated[dict[str, JsonValue], AfterValidator(_without_own)]
Several = Annotated[
    list[T], BeforeValidator(_listed), Field(min_length=1), AfterValidator(_distinct)
]
Size = Annotated[int, Field(ge=2)]
SearchedOption = Annotated[str, Field(pattern=r"^(adapter|posterior|fit)\.\w+$")]
Key = Literal["task", "backbone", "method", "adapter", "posterior", "rows", "seed"]
Rule = dict[Key, Several[Name | int]]


class _Part(BaseModel):
    """A mapping in a grid; its fields are the allowed keys."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Task(_Part):
    """A known task, or the user's own files.

    Attributes:
        name: A task of `bayeslora tasks`, or a name for your own files.
        train: File of the training rows; None for a known task.
        validation: File of rows that some protocols report.
        test: File of the test rows; None for a known task.
        ood: Out-of-distribution sets by name: a known task, `task/split`, or a file; None for
            those of a known task.
        text_column: Column of the texts.
        label_column: Column of the labels.
        pair_column: Column of second texts.
    """

    name: Name
    train: Name | None = None
    validation: Name | None = None
    test: Name | None = None
    ood: (
        Annotated[dict[str, Name], BeforeValidator(_ood_sources), AfterValidator(_own_names)] | None
    ) = None
    text_column: Name | None = None
    label_column: Name | None = None
    pair_column: Name | None = None

    @property
    def files(self) -> dict[str, str]:
        """The files by split; empty for a known task."""
        files = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: file for split, file in files.items() if file}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.model_fields_set - {"name", "ood"} and not (self.train and self.test):
            raise InputError("set both train and test, or only name and ood for a known task")
        return self


class Method(_Part):
    """An adapter with a posterior, written as on the command line.

    Attributes:
        adapter: Such as `polar:r=4`.
        posterior: Such as `vbll:prior_scale=2`.
        fit: Options of `fit` for this method alone.
        name: Name in tables, unique in a grid; by default the texts of adapter and posterior.
    """

    adapter: Name = "polar"
    posterior: Name = "vbll"
    fit: Options = {}
    name: Name = Field(default_factory=lambda set: f"{set['adapter']} {set['posterior']}")

    def __hash__(self) -> int:
        return hash(self.name)


class Predict(_Part):
    """Options of `predict`."""

    num_samples: Draws | None = None
    link: Link | None = None


class Search(_Part):
    """A search over options, with the same number of trials for every cell.

    Attributes:
        trials: Number of fits to compare per cell.
        hold_out: Share of a cell's own training rows whose NLL compares the trials.
        ranges: By option, such as `adapter.lr` or `fit.epochs`: a list of values, or `low`, `high`
            and `log`. Options that a method lacks are left out of its search.
    """

    trials: Count
    hold_out: Share = 0.2
    ranges: Annotated[
        dict[SearchedOption, Annotated[JsonValue, AfterValidator(_searchable)]], Field(min_length=1)
    ]


@dataclass(frozen=True)
class Cell:
    """One fit with its predictions and scores.

    Attributes:
        protocol: Name of the protocol.
        task: Name of the task.
        backbone: Name, directory or hub id.
        method: The method.
        rows: Number of labelled rows to draw; None uses all.
        seed: Seed of the draw, the fit and the predictions.
    """

    protocol: str
    task: str
    backbone: str
    method: Method
    rows: int | None
    seed: int

    @property
    def key(self) -> dict[str, Any]:
        """Unique key of the cell, as columns of a table."""
        return {**vars(self), "method": self.method.name}

    @property
    def id(self) -> str:
        """Readable file name, unique by a hash of the key."""
        size = "" if self.rows is None else f"-{self.rows}"
        readable = f"{self.task}-{Path(self.backbone).name}-{self.method.name}{size}-{self.seed}"
        slug = re.sub(r"[^A-Za-z0-9]+", "-", readable).strip("-")[:80]
        digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()
        return f"{slug}-{digest[:10]}"

    def __str__(self) -> str:
        """Return the cell in words, for messages."""
        size = "" if self.rows is None else f", {self.rows} rows"
        return f"{self.task}, {self.backbone}, {self.method.name}{size}, seed {self.seed}"

    def matches(self, rule: Rule) -> bool:
        """Return whether every key matches; a method's bare name matches it with any options."""
        values = {**self.key, "adapter": self.method.adapter, "posterior": self.method.posterior}
        return all(
            values[key] in targets or str(values[key]).partition(":")[0] in targets
            for key, targets in rule.items()
        )


class Grid(_Part):
    """A checked grid; its fields are the keys of the file."""

    protocol: Annotated[Name, AfterValidator(_known_protocol)] = "bayeslora"
    tasks: Several[Annotated[Task, BeforeValidator(_named_task)]]
    backbones: Several[Name] = [QUESTIONS]
    adapters: Several[Name] = []
    posteriors: Several[Name] = []
    methods: Several[Method] = []
    seeds: Several[Seed] = []
    rows: Several[Size] = []
    fit: Options = {}
    model: Options = {}
    predict: Predict = Predict()
    exclude: Annotated[list[Annotated[Rule, Field(min_length=1)]], BeforeValidator(_listed)] = []
    reference: str = ""
    search: Search | None = None

    @property
    def rules(self) -> Protocol:
        """The protocol."""
        return PROTOCOLS[self.protocol]

    @cached_property
    def all_methods(self) -> list[Method]:
        """Every adapter with every posterior, then the further methods."""
        if self.methods and not (self.adapters or self.posteriors):
            return self.methods
        pairs = product(self.adapters or ["polar"], self.posteriors or ["vbll"])
        return _distinct([*(Method(adapter=a, posterior=p) for a, p in pairs), *self.methods])

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The cells in order."""
        sizes: list[int] | list[None] = self.rows or [None]
        seeds = self.seeds or self.rules.seeds
        cells = [
            Cell(self.protocol, task.name, backbone, method, size, seed)
            for task, backbone, size, method, seed in product(
                self.tasks, self.backbones, sizes, self.all_methods, seeds
            )
        ]
        for rule in self.exclude:
            if not any(cell.matches(rule) for cell in cells):
                raise InputError(f"exclude: rule {rule} matches no cell")
        return tuple(cell for cell in cells if not any(map(cell.matches, self.exclude)))

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [method.name for method in self.all_methods]
        object.__setattr__(self, "reference", self.reference or names[0])
        if self.reference not in names:
            raise unknown_choice("reference", self.reference, names)
        if self.rows and not self.rules.draws_rows:
            raise InputError(
                f"rows has no effect with protocol {self.protocol}, which uses all rows",
                code="no-effect",
            )
        if self.rules.draws_rows and not self.rows:
            raise InputError(f"rows is missing: protocol {self.protocol} draws rows for each seed")
        if not self.cells:
            raise InputError("exclude: no cells are left")
        return self


def as_grid(content: Any) -> Grid:
    """Return the grid in a YAML file, or of its content as a mapping.

    Paths of data files and of backbones in it are relative to the working directory.

    Raises:
        InputError: The file, a key or a value is wrong; the message names the key.
    """
    if isinstance(content, str | Path):
        values = read_yaml(content)
        with located(content):
            return as_grid(values)
    try:
        return Grid.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        raise cause.within(place) if place else cause
    value = "" if first["type"] == "missing" else f", got {shortened(first['input'])}"
    raise InputError(f"{place or 'grid'}: {first['msg']}{value}")


def set_part(name: str) -> str:
    """Return the part of a file name that stands for a set of rows: `typos-3` for `typos:3`."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", name)
