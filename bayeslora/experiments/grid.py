"""Grids: tasks × backbones × methods × rows × seeds, read from YAML.

A grid's keys and values are the fields of pydantic models. All checks here work without data and
models, so a typo is found in less than a second.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from reprlib import repr as shortened
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from bayeslora.backbones.embedded import AUTO, QUESTIONS
from bayeslora.backbones.template import check_prompt
from bayeslora.data.questions import is_description, read_description
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.errors import InputError, MissingAssetError, unknown_choice
from bayeslora.experiments.protocols import PROTOCOLS, Protocol
from bayeslora.io.files import read_yaml
from bayeslora.option_checks import KINDS, Count, Draws, Link, Seed, Share

if TYPE_CHECKING:
    from bayeslora.adapters.base import Adapter
    from bayeslora.posteriors.base import Posterior


T = TypeVar("T")

_COLUMNS = ("text_column", "label_column", "pair_column")
_SPLITS = ("train", "validation", "test")
_RESERVED = (*_SPLITS, "reported", "cost")
"""Names of sets in files and tables."""
_NOT_HERE = frozenset(
    {"out", "overwrite", *_COLUMNS, "image_column", "seed", "progress", "trust_remote_code"}
)


def _listed(value: Any) -> Any:
    """Return a single value as a list of one."""
    return [*value] if isinstance(value, list | tuple | range) else [value]


def _distinct(values: list[T]) -> list[T]:
    names = [getattr(value, "name", value) for value in values]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name!r} is listed twice")
    return values


def _method_text(value: Any) -> Any:
    """Return `name:key=value,…` for a mapping with a name."""
    if not isinstance(value, Mapping) or "name" not in value:
        return value
    options = [f"{key}={json.dumps(item)}" for key, item in value.items() if key != "name"]
    return f"{value['name']}:{','.join(options)}" if options else value["name"]


def _named_task(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _ood_sources(value: Any) -> Any:
    """Return sources by name; a list names each set as its source, and nothing is no set."""
    if value is None or isinstance(value, Mapping):
        return value or {}
    return {str(source): source for source in _listed(value)}


def _own_names(sets: dict[str, str]) -> dict[str, str]:
    """Refuse sets that would have the file name of other rows."""
    parts = [*_RESERVED, *(set_part(name).lower() for name in sets)]
    for name, part in zip(sets, parts[len(_RESERVED) :], strict=True):
        if parts.count(part) > 1:
            raise InputError(f"{name!r} has the name of other rows in files; choose another name")
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


def _named_backbones(names: list[str]) -> list[str]:
    if AUTO in names:
        raise InputError("'auto' is chosen by `fit` for its rows; name backbones here")
    return names


Name = Annotated[str, Field(min_length=1)]
Options = Annotated[dict[str, JsonValue], AfterValidator(_without_own)]
Several = Annotated[
    list[T], BeforeValidator(_listed), Field(min_length=1), AfterValidator(_distinct)
]
MethodText = Annotated[Name, BeforeValidator(_method_text)]
Size = Annotated[int, Field(ge=2)]
SearchedOption = Annotated[str, Field(pattern=r"^(adapter|posterior|fit)\.\w+$")]


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
        task: Kind of data of the files, or a YAML file that names their columns.
        text_column: Column of the texts.
        label_column: Column of the labels.
        pair_column: Column of second texts.
    """

    name: Name
    train: Name | None = None
    validation: Name | None = None
    test: Name | None = None
    ood: Annotated[
        Annotated[dict[str, Name], AfterValidator(_own_names)] | None, BeforeValidator(_ood_sources)
    ] = None
    task: Name | None = None
    text_column: Name | None = None
    label_column: Name | None = None
    pair_column: Name | None = None

    @property
    def files(self) -> dict[str, str]:
        """The files by split; empty for a known task."""
        return {split: getattr(self, split) for split in _SPLITS if getattr(self, split)}

    @property
    def columns(self) -> dict[str, Any]:
        """Options of the reader of the files."""
        return {key: getattr(self, key) for key in ("task", *_COLUMNS) if getattr(self, key)}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.files and not (self.train and self.test):
            raise InputError("set both train and test, or neither for a known task")
        if self.columns and not self.files:
            key = next(iter(self.columns))
            raise InputError(f"{key} is only for your own files (train, test)")
        if self.task is not None and is_description(self.task):
            if extra := [key for key in self.columns if key != "task"]:
                raise InputError(f"{self.task} already names the columns; remove {extra[0]}")
            check_prompt(self.task, read_description(self.task).prompt)
        elif self.task is not None and self.task not in KINDS:
            raise unknown_choice("task", self.task, (*KINDS, "a YAML file"))
        return self


class Method(_Part):
    """An adapter with a posterior, written as on the command line.

    Attributes:
        name: Name in tables, unique in a grid; by default the texts of adapter and posterior.
        adapter: Such as `polar:r=4`.
        posterior: Such as `vbll:prior_scale=2`.
        fit: Options of `fit` for this method alone.
    """

    name: Name = ""
    adapter: MethodText = "polar"
    posterior: MethodText = "vbll"
    fit: Options = {}

    @model_validator(mode="after")
    def _fill_name(self) -> Self:
        object.__setattr__(self, "name", self.name or f"{self.adapter} {self.posterior}")
        return self

    def __hash__(self) -> int:
        return hash(self.name)


class Predict(_Part):
    """Options of `predict`."""

    num_samples: Draws | None = None
    link: Link | None = None


class Range(_Part):
    """A range of numbers to search, by their logarithm if `log`."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise InputError("low < high is needed, and low > 0 with log")
        return self


class Search(_Part):
    """A search over options, with the same number of trials for every cell.

    Attributes:
        trials: Number of fits to compare per cell.
        hold_out: Share of a cell's own training rows whose NLL compares the trials.
        ranges: By option, such as `adapter.lr` or `fit.epochs`: a list of values or a range.
            Options that a method lacks are left out of its search.
    """

    trials: Count
    hold_out: Share = 0.2
    ranges: Annotated[
        dict[SearchedOption, Annotated[list[JsonValue], Field(min_length=2)] | Range],
        Field(min_length=1),
    ]


class Rule(_Part):
    """A rule of `exclude`: a cell that matches every key is left out."""

    task: Several[Name] = []
    backbone: Several[Name] = []
    method: Several[Name] = []
    adapter: Several[Name] = []
    posterior: Several[Name] = []
    rows: Several[int] = []
    seed: Several[int] = []

    def matches(self, cell: Cell) -> bool:
        """Return whether every key matches; a method's bare name matches it with any options."""
        values = {**cell.key, "adapter": cell.method.adapter, "posterior": cell.method.posterior}
        return all(
            values[key] in targets or str(values[key]).partition(":")[0] in targets
            for key, targets in self
            if targets
        )


@dataclass(frozen=True)
class Cell:
    """One fit with its predictions and scores.

    Attributes:
        task: Name of the task.
        backbone: Name, directory or hub id.
        method: The method.
        rows: Number of labelled rows to draw; None uses all.
        seed: Seed of the draw, the fit and the predictions.
        protocol: Name of the protocol.
    """

    task: str
    backbone: str
    method: Method
    rows: int | None
    seed: int
    protocol: str

    @property
    def key(self) -> dict[str, Any]:
        """Unique key of the cell, as columns of a table."""
        return {
            "protocol": self.protocol,
            "task": self.task,
            "backbone": self.backbone,
            "method": self.method.name,
            "rows": self.rows,
            "seed": self.seed,
        }

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


class Grid(_Part):
    """A checked grid; its fields are the keys of the file."""

    protocol: Annotated[Name, AfterValidator(_known_protocol)] = "bayeslora"
    tasks: Several[Annotated[Task, BeforeValidator(_named_task)]]
    backbones: Annotated[Several[Name], AfterValidator(_named_backbones)] = [QUESTIONS]
    adapters: Several[MethodText] = []
    posteriors: Several[MethodText] = []
    methods: Several[Method] = []
    seeds: Several[Seed] = []
    rows: Several[Size] = []
    fit: Options = {}
    model: Options = {}
    predict: Predict = Predict()
    exclude: Annotated[list[Rule], BeforeValidator(_listed)] = []
    reference: str = ""
    search: Search | None = None

    @property
    def rules(self) -> Protocol:
        """The protocol."""
        return PROTOCOLS[self.protocol]

    @cached_property
    def all_methods(self) -> list[Method]:
        """Every adapter with every posterior, then the further methods."""
        methods = self.methods
        if self.adapters or self.posteriors or not methods:
            pairs = product(self.adapters or ["polar"], self.posteriors or ["vbll"])
            methods = [Method(adapter=a, posterior=p) for a, p in pairs] + methods
        return methods

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The cells in order."""
        cells = self._product()
        return tuple(cell for cell in cells if not any(rule.matches(cell) for rule in self.exclude))

    def _product(self) -> list[Cell]:
        sizes: list[int] | list[None] = self.rows or [None]
        seeds = self.seeds or self.rules.seeds
        return [
            Cell(task.name, backbone, method, size, seed, self.protocol)
            for task, backbone, size, method, seed in product(
                self.tasks, self.backbones, sizes, self.all_methods, seeds
            )
        ]

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [method.name for method in _distinct(self.all_methods)]
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
        for rule in self.exclude:
            keys = rule.model_dump(exclude_unset=True)
            if not keys or not any(map(rule.matches, self._product())):
                raise InputError(f"exclude: rule {keys} matches no cell")
        if not self.cells:
            raise InputError("exclude: no cells are left")
        return self


def as_grid(content: Any) -> Grid:
    """Return the grid in a YAML file, or of its content as a mapping.

    Paths of data files and of backbones in it are relative to the working directory.

    Raises:
        InputError: The file, a key or a value is wrong; the message names the key.
    """
    if isinstance(content, Grid):
        return content
    if isinstance(content, str | Path):
        values = read_yaml(content)
        try:
            return as_grid(values)
        except InputError as error:
            raise error.within(content) from None
    try:
        return Grid.model_validate(content)
    except ValidationError as error:
        raise _input_error(error) from None


def _input_error(error: ValidationError) -> InputError:
    """Return the first error of a grid in one line, with its key and value."""
    # Of the alternatives of a value, the one that is wrong not only by its type.
    first = min(error.errors(), key=lambda each: each["type"].endswith("_type"))
    place = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause.within(place) if place else cause
    value = "" if first["type"] == "missing" else f", got {shortened(first['input'])}"
    return InputError(f"{place or 'grid'}: {first['msg']}{value}")


def set_part(name: str) -> str:
    """Return the part of a file name that stands for a set of rows: `typos-3` for `typos:3`."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", name)


FILE = "search.sqlite3"
_SEEDS = 1_000_003
_FIT = frozenset({"epochs", "batch_size", "head_lr", "patience"})


def import_optuna() -> Any:
    """Import and return optuna.

    Raises:
        MissingAssetError: It is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise MissingAssetError(
            "search requires Optuna; run `pip install 'bayeslora[tune]'`"
        ) from None
    return optuna


def search_of(search: Search | None, adapter: Adapter, posterior: Posterior) -> Search | None:
    """Return a search over those of its options that a method has; None if it has none.

    Raises:
        InputError: A value in a range is not allowed.
    """
    if search is None:
        return None
    parts: dict[str, Any] = {"posterior": posterior}
    if adapter.trains:
        parts |= {"adapter": adapter, "fit": TrainingSettings(epochs=1)}
    known = {f"{part}.{field.name}" for part, options in parts.items() for field in fields(options)}
    ranges = {}
    for name, values in search.ranges.items():
        part, _, key = name.partition(".")
        if name not in known or (part == "fit" and key not in _FIT):
            continue
        ends = [values.low, values.high] if isinstance(values, Range) else values
        for value in ends:
            replace(parts[part], **{key: value})
        ranges[name] = values
    return search.model_copy(update={"ranges": ranges}) if ranges else None


def best_options(
    search: Search,
    loss: Callable[[dict[str, Any]], float],
    folder: Path,
    *,
    settings: Mapping[str, Any],
    seed: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the options of the best trial, and all trials.

    Args:
        search: The search.
        loss: Returns the NLL with some options, by names such as `adapter.lr`.
        folder: Directory of the trials' file.
        settings: Everything else that determines a trial; with other settings, earlier trials in
            the file are not used.
        seed: Seed of the suggestions.

    Raises:
        InputError: Every trial failed.
    """
    optuna = import_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / FILE}")
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    study: Any = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL)
    while (done := len(study.get_trials(states=ended))) < search.trials:
        # A new sampler for each trial, so that its suggestion depends only on the trials.
        study.sampler = optuna.samplers.TPESampler(seed=(_SEEDS * seed + done) % 2**32)
        trial = study.ask()
        options = {name: _suggested(trial, name, value) for name, value in search.ranges.items()}
        try:
            study.tell(trial, loss(options))
        except InputError as error:
            trial.set_user_attr("error", str(error))
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
    trials = [
        {"options": dict(trial.params), "nll": trial.value, **trial.user_attrs}
        for trial in study.get_trials(states=ended)
    ]
    storage.engine.dispose()
    if all(trial["nll"] is None for trial in trials):
        raise InputError(f"every trial of the search failed; last error: {trials[-1].get('error')}")
    best = min((trial for trial in trials if trial["nll"] is not None), key=lambda t: t["nll"])
    return best["options"], trials


def _suggested(trial: Any, name: str, value: list[Any] | Range) -> Any:
    if isinstance(value, list):
        return trial.suggest_categorical(name, value)
    if isinstance(value.low, int) and isinstance(value.high, int):
        return trial.suggest_int(name, value.low, value.high, log=value.log)
    return trial.suggest_float(name, value.low, value.high, log=value.log)
