"""Grids: tasks × backbones × methods × rows × seeds, read from YAML and checked key by key.

All checks here work without data and models, so a typo is found in less than a second.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from bayeslora.backbones.embedded import AUTO, QUESTIONS
from bayeslora.backbones.template import check_prompt
from bayeslora.data.corruptions import SEVERITIES, Corruption
from bayeslora.data.read import is_description, read_description
from bayeslora.errors import InputError, unknown_choice
from bayeslora.experiments.protocols import Protocol, protocol
from bayeslora.io.files import read_yaml
from bayeslora.option_checks import KINDS, LARGEST_SEED, Draws, Link, check_integer, checked

DEFAULT_PROTOCOL = "bayeslora"

_KEYS = (
    *("protocol", "tasks", "backbones", "adapters", "posteriors", "methods", "seeds", "rows"),
    *("fit", "model", "predict", "exclude", "reference", "search", "corruptions"),
)
_FILES = ("train", "validation", "test")
_COLUMNS = ("text_column", "label_column", "pair_column")
_TASK_KEYS = ("name", "task", "ood", *_FILES, *_COLUMNS)
_METHOD_KEYS = ("name", "adapter", "posterior", "fit")
_PREDICT_KEYS = ("num_samples", "link")
_EXCLUDE_KEYS = ("task", "backbone", "method", "adapter", "posterior", "rows", "seed")
_SEARCH_KEYS = ("trials", "hold_out", "ranges")
_RANGE_KEYS = ("low", "high", "log")
_OPTION = re.compile(r"(?:^|,)\s*(\w+)\s*=")
_SETS = {"train": "the training rows", "reported": "the reported rows", "cost": "the costs"}


@dataclass(frozen=True)
class Task:
    """A known task, or the user's own files.

    Attributes:
        name: A task of `bayeslora tasks`, or a name for your own files.
        files: `train`, `test` and optionally `validation`; empty for a known task.
        ood: Out-of-distribution sets by name: a known task, `task/split`, or a file; None for
            those of a known task.
        columns: Column options of your own files; `task` may be a YAML file that names the
            columns, or the kind of data.
    """

    name: str
    files: Mapping[str, str] = field(default_factory=dict)
    ood: Mapping[str, str] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """An adapter with a posterior, written as on the command line.

    Attributes:
        name: Name in tables; unique in a grid.
        adapter: Such as `polar:r=4`.
        posterior: Such as `vbll:prior_scale=2`.
        fit: Options of `fit` for this method alone.
    """

    name: str
    adapter: str
    posterior: str
    fit: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Search:
    """A search over options, with the same number of trials for every cell.

    Attributes:
        trials: Number of fits to compare per cell.
        hold_out: Share of a cell's own training rows whose NLL compares the trials.
        ranges: By option, such as `adapter.lr` or `fit.epochs`: a list of values, or `low`, `high`
            and optionally `log`. Options that a method lacks are left out of its search.
    """

    trials: int
    hold_out: float
    ranges: Mapping[str, Any]


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


@dataclass(frozen=True)
class Grid:
    """A checked grid.

    Attributes:
        protocol: How cells are trained and scored.
        tasks: Tasks by name.
        cells: The product without excluded cells, in the order of the file.
        fit: Options of `fit` for all cells.
        model: Options of `BayesianClassifier` for all cells.
        predict: Options of `predict` for all cells.
        reference: Name of the method with which others are compared.
        search: A search over options, or None.
        corruptions: Corruptions under which the reported rows are scored too.
        source: The content of the file, from which workers rebuild the grid.
    """

    protocol: Protocol
    tasks: Mapping[str, Task]
    cells: tuple[Cell, ...]
    fit: Mapping[str, Any]
    model: Mapping[str, Any]
    predict: Mapping[str, Any]
    reference: str
    search: Search | None
    corruptions: tuple[Corruption, ...]
    source: Mapping[str, Any]

    @property
    def methods(self) -> list[Method]:
        """The methods of the cells, in order."""
        return list({cell.method.name: cell.method for cell in self.cells}.values())


def read_grid(path: str | Path) -> Grid:
    """Read a grid from a YAML file.

    Paths of data files and of backbones in it are relative to the working directory.

    Raises:
        InputError: The file, a key or a value in it is wrong; the message names the key.
    """
    content = read_yaml(path)
    try:
        return as_grid(content)
    except InputError as error:
        raise error.within(path) from None


def as_grid(content: Any) -> Grid:
    """Return the grid described by a mapping, such as the content of a YAML file.

    Raises:
        InputError: A key or a value is wrong; the message names the key.
    """
    if isinstance(content, Grid):
        return content
    source = _mapping("the grid", content, _KEYS)
    chosen = protocol(source.get("protocol", DEFAULT_PROTOCOL))
    tasks = _tasks(source)
    methods = _methods(source)
    names = [method.name for method in methods]
    reference = source.get("reference", names[0])
    if reference not in names:
        raise unknown_choice("reference", str(reference), names)
    sizes = _sizes(source, chosen)
    seeds = _seeds(source, chosen)
    corruptions = _corruptions(source.get("corruptions") or [])
    shifted = [f"{corruption.kind}:{corruption.severity}" for corruption in corruptions]
    for task in tasks.values():
        others = {**_SETS, **{name: f"corruption {name!r}" for name in shifted}}
        check_ood_names(task.name, task.ood or (), others)
    backbones = _texts("backbones", source.get("backbones", QUESTIONS))
    if AUTO in backbones:
        raise InputError("backbones: 'auto' is chosen by `fit` for its rows; name backbones here")
    cells = [
        Cell(task, backbone, method, rows, seed, chosen.name)
        for task, backbone, rows, method, seed in product(tasks, backbones, sizes, methods, seeds)
    ]
    cells = _without(cells, source.get("exclude", []))
    if not cells:
        raise InputError("exclude: no cells are left")
    return Grid(
        protocol=chosen,
        tasks=tasks,
        cells=tuple(cells),
        fit=_mapping("fit", source.get("fit") or {}, None),
        model=_model(source.get("model") or {}),
        predict=_predict(source.get("predict") or {}),
        reference=str(reference),
        search=_search(source.get("search")),
        corruptions=corruptions,
        source=json.loads(json.dumps(source, default=str)),
    )


def named_options(text: str) -> set[str]:
    """Return the options named in a method's text: `r` and `lr` for `polar:r=4,lr=1e-3`."""
    return {*_OPTION.findall(text.partition(":")[2])}


def set_part(name: str) -> str:
    """Return the part of a file name that stands for a set of rows: `typos-3` for `typos:3`."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", name)


def check_ood_names(task: str, names: Iterable[str], others: Mapping[str, str]) -> None:
    """Raise InputError if an OOD set's results would be stored under the name of other rows.

    Args:
        task: Name of the task.
        names: Names of its OOD sets.
        others: Description of other sets by name.

    Raises:
        InputError: A name is empty, or the file name of two sets is the same, where case does not
            count.
    """
    taken = {set_part(name).lower(): about for name, about in others.items()}
    for name in names:
        if not name:
            raise InputError(f"task {task}: the name of an ood set must not be empty")
        if about := taken.get(set_part(name).lower()):
            raise InputError(
                f"task {task}: ood {name!r} has the same name in files as {about}; choose another "
                "name"
            )
        taken[set_part(name).lower()] = f"ood {name!r}"


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Return a hash of JSON-ready settings."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _mapping(label: str, value: Any, allowed: Sequence[str] | None) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{label} must be a mapping, got {value!r}")
    for key in value:
        if not isinstance(key, str) or (allowed is not None and key not in allowed):
            raise unknown_choice(f"key of {label}", str(key), allowed or ())
    return dict(value)


def _model(value: Any) -> dict[str, Any]:
    model = _mapping("model", value, None)
    if "trust_remote_code" in model:
        raise InputError(
            "model: trust_remote_code cannot be set here; code of a model repository runs only "
            "with `fit --trust-remote-code` or in Python"
        )
    return model


def _list(label: str, value: Any) -> list[Any]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values or any(item is None for item in values):
        raise InputError(f"{label} must not be empty")
    return values


def _texts(label: str, value: Any) -> list[str]:
    values = _list(label, value)
    texts = [_as_text(label, item) for item in values]
    if duplicates := sorted({text for text in texts if texts.count(text) > 1}):
        raise InputError(f"{label}: {duplicates[0]!r} is listed twice")
    return texts


def _as_text(label: str, value: Any) -> str:
    """Return `name:key=value,…` for a name, such a text, or a mapping with a name."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        options = ",".join(
            f"{key}={json.dumps(option)}" for key, option in value.items() if key != "name"
        )
        return f"{value['name']}:{options}" if options else str(value["name"])
    raise InputError(f"{label} must be a name or a mapping with a name, got {value!r}")


def _tasks(source: Mapping[str, Any]) -> dict[str, Task]:
    if "tasks" not in source:
        raise InputError("tasks is missing; list at least one task")
    tasks: dict[str, Task] = {}
    for value in _list("tasks", source["tasks"]):
        task = _task(value)
        if task.name in tasks:
            raise InputError(f"tasks: {task.name!r} is listed twice")
        tasks[task.name] = task
    return tasks


def _task(value: Any) -> Task:
    if isinstance(value, str) and value:
        return Task(value)
    entry = _mapping("a task", value, _TASK_KEYS)
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise InputError(f"tasks: {value!r} has no name")
    files = {key: str(entry[key]) for key in _FILES if key in entry}
    if files and not {"train", "test"} <= files.keys():
        raise InputError(f"task {name}: set both train and test, or neither for a known task")
    columns = {key: str(entry[key]) for key in ("task", *_COLUMNS) if key in entry}
    if "task" in columns:
        _check_kind(name, columns)
    if columns and not files:
        raise InputError(
            f"task {name}: {next(iter(columns))} is only for your own files (train, test)"
        )
    return Task(name, files, _ood(name, entry["ood"]) if "ood" in entry else None, columns)


def _check_kind(name: str, columns: Mapping[str, str]) -> None:
    """Raise InputError unless `task` is a kind of data or a description of all columns."""
    kind = columns["task"]
    if is_description(kind):
        if extra := [key for key in columns if key != "task"]:
            raise InputError(f"task {name}: {kind} already names the columns; remove {extra[0]}")
        check_prompt(kind, read_description(kind).prompt)
    elif kind not in KINDS:
        choice = unknown_choice("task", kind, (*KINDS, "a YAML file"))
        raise InputError(f"task {name}: {choice}")


def _ood(name: str, value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {str(key): str(source) for key, source in value.items()}
    sets = [] if value in (None, []) else _texts(f"task {name}: ood", value)
    return {source: source for source in sets}


def _methods(source: Mapping[str, Any]) -> list[Method]:
    methods = []
    if "adapters" in source or "posteriors" in source or "methods" not in source:
        adapters = _texts("adapters", source.get("adapters", "polar"))
        posteriors = _texts("posteriors", source.get("posteriors", "vbll"))
        methods = [Method(f"{a} {p}", a, p) for a, p in product(adapters, posteriors)]
    for value in _list("methods", source["methods"]) if "methods" in source else []:
        entry = _mapping("a method", value, _METHOD_KEYS)
        adapter = _as_text("methods: adapter", entry.get("adapter", "polar"))
        posterior = _as_text("methods: posterior", entry.get("posterior", "vbll"))
        name = str(entry.get("name", f"{adapter} {posterior}"))
        methods.append(
            Method(name, adapter, posterior, _mapping(f"fit of {name}", entry.get("fit", {}), None))
        )
    names = [method.name for method in methods]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"methods: {duplicates[0]!r} is listed twice; give each method a unique name"
        )
    return methods


def _seeds(source: Mapping[str, Any], chosen: Protocol) -> list[int]:
    seeds = _list("seeds", source.get("seeds", chosen.seeds))
    for seed in seeds:
        check_integer("seeds", seed, low=0)
        if seed > LARGEST_SEED:
            raise InputError(f"seeds must be at most {LARGEST_SEED}, got {seed}")
    if len({*seeds}) < len(seeds):
        raise InputError(f"seeds must be distinct, got {seeds}")
    return seeds


def _predict(value: Any) -> dict[str, Any]:
    """Return the options of `predict`, with types and ranges allowed by some method."""
    options = _mapping("predict", value, _PREDICT_KEYS)
    if "num_samples" in options:
        checked("predict: num_samples", options["num_samples"], Draws)
    if "link" in options:
        checked("predict: link", options["link"], Link)
    return options


def _sizes(source: Mapping[str, Any], chosen: Protocol) -> list[int | None]:
    if not chosen.draws_rows:
        if "rows" in source:
            raise InputError(
                f"rows has no effect with protocol {chosen.name}, which uses all rows",
                code="no-effect",
            )
        return [None]
    if "rows" not in source:
        raise InputError(
            f"rows is missing: protocol {chosen.name} draws this number of rows for each seed"
        )
    sizes = _list("rows", source["rows"])
    for size in sizes:
        check_integer("rows", size, low=2)
    if len({*sizes}) < len(sizes):
        raise InputError(f"rows must be distinct, got {sizes}")
    return [*sizes]


def _without(cells: list[Cell], excluded: Any) -> list[Cell]:
    for value in excluded if isinstance(excluded, list) else [excluded]:
        rule = _mapping("exclude", value, _EXCLUDE_KEYS)
        if not rule:
            raise InputError("exclude: an empty rule would exclude every cell")
        matching = [cell for cell in cells if _matches(cell, rule)]
        if not matching:
            raise InputError(f"exclude: rule {rule} matches no cell")
        cells = [cell for cell in cells if cell not in matching]
    return cells


def _matches(cell: Cell, rule: Mapping[str, Any]) -> bool:
    values = {**cell.key, "adapter": cell.method.adapter, "posterior": cell.method.posterior}
    for key, targets in rule.items():
        value = values[key]
        # A method's bare name matches it with any options.
        known = [value, value.partition(":")[0]] if isinstance(value, str) else [value]
        if not any(
            target in known for target in (targets if isinstance(targets, list) else [targets])
        ):
            return False
    return True


def _corruptions(value: Any) -> tuple[Corruption, ...]:
    """Return the corruptions of `KIND:SEVERITY` texts; `KIND` alone means all severities."""
    corruptions = []
    for text in _texts("corruptions", value) if value else []:
        severities = [text] if ":" in text else [f"{text}:{level}" for level in SEVERITIES]
        try:
            corruptions += [Corruption.of(severity) for severity in severities]
        except InputError as error:
            raise error.within("corruptions") from None
    if len({*corruptions}) < len(corruptions):
        raise InputError(f"corruptions: {value} repeats a kind and severity")
    return tuple(corruptions)


def _search(value: Any) -> Search | None:
    if value is None:
        return None
    options = _mapping("search", value, _SEARCH_KEYS)
    trials, share = options.get("trials"), options.get("hold_out", 0.2)
    check_integer("search: trials", trials, low=1)
    if not isinstance(share, float) or not 0 < share < 1:
        raise InputError(f"search: hold_out must be between 0 and 1, got {share!r}")
    ranges = _mapping("search: ranges", options.get("ranges", {}), None)
    if not ranges:
        raise InputError("search: ranges is missing; list options such as adapter.lr")
    for name, values in ranges.items():
        _check_range(name, values)
    return Search(int(trials), share, ranges)  # type: ignore[arg-type]


def _check_range(name: str, value: Any) -> None:
    if not re.fullmatch(r"(adapter|posterior|fit)\.\w+", name):
        raise InputError(f"search: {name!r} must be adapter.OPTION, posterior.OPTION or fit.OPTION")
    if isinstance(value, list):
        if len(value) < 2:
            raise InputError(f"search: {name} needs at least two values, got {value}")
        return
    bounds = _mapping(f"search: {name}", value, _RANGE_KEYS)
    low, high = bounds.get("low"), bounds.get("high")
    if not all(
        isinstance(bound, int | float) and not isinstance(bound, bool) for bound in (low, high)
    ):
        raise InputError(f"search: low and high of {name} must be numbers, got {value!r}")
    if not low < high or (bounds.get("log") and low <= 0):  # type: ignore[operator]
        raise InputError(f"search: {name} needs low < high, and low > 0 with log, got {value!r}")
