"""What the training of one network needs, its schedule, and its results."""

from __future__ import annotations

import json
import logging
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save
from torch import Tensor

from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.checkpoint import CHECKPOINT, FORMAT_VERSION, INTERRUPTED, LAYOUTS
from bayeslora.engine.network import Network
from bayeslora.engine.plan import Plan
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.errors import InputError
from bayeslora.io import (
    atomic_directory,
    atomic_file,
    open_tensors,
    read_json,
    real_path,
    refuse_target,
    remove,
    write_json,
)
from bayeslora.processes import current

if TYPE_CHECKING:
    from bayeslora.engine.starts import ClassPrior


@dataclass(frozen=True)
class Training:
    """What a network is trained on, and how.

    Attributes:
        network: A fresh network.
        plan: What was chosen; its seed is that of this network.
        train: Training rows.
        validation: Held-out rows. Training stops after `patience` epochs without a better NLL on
            them, and keeps the best epoch; without them the last epoch is kept.
        directory: Directory for checkpoints; None writes none.
        prior: The language model's rows for the classes; None for a prior mean of zero.
        tasks: Number of classes of each of several tasks, in the order of the classes.
        title: Title of the progress bar.
        begin: Gives the network its weights before the first step; None leaves the fresh ones.
        rate: Factor of all learning rates; 0 takes no step.
    """

    network: Network
    plan: Plan
    train: PreparedTexts
    validation: PreparedTexts | None = None
    directory: Path | None = None
    prior: ClassPrior | None = None
    tasks: Mapping[str, int] = field(default_factory=dict)
    title: str = "fit"
    begin: Callable[[Network], None] | None = None
    rate: float = 1.0

    @property
    def settings(self) -> TrainingSettings:
        """Epochs, batch size and further options of training."""
        return self.plan.training

    @property
    def num_train(self) -> int:
        """Number of training rows."""
        return len(self.train.labels)

    @property
    def num_steps(self) -> int:
        """Number of steps without early stopping."""
        return self.settings.num_steps(self.num_train)

    @property
    def prior_waits(self) -> bool:
        """Whether the prior is centred after training, on the final features.

        This is the case if the final fit starts over, because the language model's answer would be
        a poor start for training the adapters.
        """
        starts_over = self.plan.posterior.starts_over(adapter_trains=True)
        return self.prior is not None and starts_over and not self.prior.leads

    def figures(self) -> dict[str, float]:
        """Return the figures of the adapter's companion, if it has one, on the training rows."""
        companion = self.network.companion
        return {} if companion is None else companion.figures(self.train.columns)

    @contextmanager
    def tracker(self) -> Iterator[Callable[[Mapping[str, float], int], object]]:
        """Yield a function that sends figures at a step to the tracker that was chosen, if any.

        The run is in the project, or experiment, named as the output directory. Files of
        TensorBoard are written to `runs/PROJECT/RUN`.
        """
        name = self.settings.report_to
        if name is None or not current().is_first:
            yield lambda *_: None
            return
        from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker

        project, run = "bayeslora", self.title
        if self.directory is not None:
            project, run = self.directory.parent.parent.name, self.directory.name
        makers: dict[str, Callable[[], Any]] = {
            "tensorboard": lambda: TensorBoardTracker(f"{project}/{run}", "runs"),
            "wandb": lambda: WandBTracker(project, name=run),
            "mlflow": lambda: MLflowTracker(project, run_name=run),
        }
        made = makers[name]()
        made.start()
        made.store_init_configuration(
            {
                "adapter": self.plan.adapter.name,
                "posterior": self.plan.posterior.name,
                "epochs": self.settings.epochs,
                "batch_size": self.settings.batch_size,
                "seed": self.plan.seed,
            }
        )
        try:
            yield lambda figures, step: made.log(dict(figures), step=step)
        finally:
            made.finish()


@dataclass
class FitResult:
    """Results of a fit besides the network.

    Attributes:
        history: One mapping per epoch: training loss, validation NLL and accuracy, and figures of
            the adapter's companion on the training rows.
        best_epoch: The epoch kept, counted from 1.
        posterior: Options chosen by the last layer, and figures of its fit.
        adapter: Size, stable rank and drift from orthogonality over all sites, and figures of the
            adapter's companion.
        hooks: What the hooks of the steps record.
        prior_factor: c of the language model's rows in the prior mean; None if that is zero.
        stages: Trained tensors at the end of each stage, if there are several; not in the record.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    posterior: dict[str, float | str] = field(default_factory=dict)
    adapter: dict[str, float] = field(default_factory=dict)
    hooks: dict[str, Any] = field(default_factory=dict)
    prior_factor: float | None = None
    stages: list[dict[str, Tensor]] = field(default_factory=list, compare=False)

    def recorded(self) -> dict[str, Any]:
        """Return the entries of a model's record."""
        entries = asdict(replace(self, stages=[], hooks={}))
        del entries["stages"], entries["hooks"]
        return {**entries, **self.hooks}


def learning_rate(settings: TrainingSettings, steps: int, schedule: str) -> Callable[[int], float]:
    """Return the factor of all learning rates as a function of the number of steps taken.

    Args:
        settings: Epochs, warm-up and stages. Each of several stages ends in a cosine of its own.
        steps: Steps per epoch.
        schedule: `cosine` or `constant`, after the warm-up.

    Source: Loshchilov and Hutter 2017, arXiv 1608.03983.
    """
    ends = [epoch * steps for epoch in settings.stages]
    begins = [0, *ends[:-1]]
    warmup = round(settings.warmup * steps * settings.epochs)

    def in_stages(step: int) -> float:
        stage = min(bisect_right(ends, step), len(ends) - 1)
        share = (step - begins[stage]) / (ends[stage] - begins[stage])
        return min(1.0, step / max(1, warmup)) * _cosine(share)

    def factor(step: int) -> float:
        if len(ends) > 1:
            return in_stages(step)
        if step < warmup:
            return step / warmup
        if schedule == "constant":
            return 1.0
        return _cosine((step - warmup) / max(1, ends[-1] - warmup))

    return factor


def _cosine(share: float) -> float:
    """Return the factor after a share of a decay from 1 to 0."""
    return 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))


logger = logging.getLogger(__name__)

_CHECKPOINT_FORMAT = 3
"""1 was a directory per epoch; 2 had other names of tensors."""


def read_checkpoint(directory: Path | None) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the checkpoint of a network's directory; None if there is none that can be read.

    Returns:
        Tensors by name, and everything else, JSON-ready.
    """
    path = None if directory is None else directory / CHECKPOINT
    if path is None or not path.is_file():
        return None
    try:
        with open_tensors(path) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads(file.metadata()["state"])
    except InputError as error:
        logger.warning("%s; training starts over", error)
        return None


def write_checkpoint(
    directory: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Replace the checkpoint of a network; after a kill, the old or the new one is in place.

    Args:
        directory: Directory of the network.
        tensors: Tensors by name.
        state: Everything else, JSON-ready.
    """
    directory.mkdir(exist_ok=True)
    target = directory / CHECKPOINT
    content = {name: item.contiguous() for name, item in tensors.items()}
    with atomic_file(target) as temporary:
        # Not `save_file`, which leaves a temporary file of its own after a kill.
        temporary.write_bytes(save(content, {"state": json.dumps(state)}))


def apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return a nested value, JSON-ready, with its tensors moved to `tensors`.

    Args:
        value: Numbers, texts, tensors, lists, tuples and dictionaries.
        name: Prefix of the names of its tensors.
        tensors: Receives them.
    """
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        # Pairs, since keys may be numbers.
        pairs = [[key, apart(item, f"{name}.{key}", tensors)] for key, item in value.items()]
        return {"dict": pairs}
    if isinstance(value, list | tuple):
        return [apart(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
    return value


def together(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that `apart` divided; tuples become lists."""
    if isinstance(value, list):
        return [together(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return {key: together(item, tensors) for key, item in value["dict"]}


_WORK = "checkpoints"


def claim(out: str | Path, identity: Mapping[str, Any], *, overwrite: bool = False) -> Path:
    """Return the checkpoint directory of a fit into `out`, new or left by an interrupted fit.

    The caller locks `out` against other processes with `io.lock`. A finished model that
    may be replaced stays unchanged beside the checkpoints until the new model replaces both.

    Args:
        out: Directory of the finished model.
        identity: Everything that determines the result, JSON-ready; a fit is resumed only if the
            interrupted one had the same.
        overwrite: Whether the content of `out` may be replaced.

    Raises:
        InputError: As `refuse`.
    """
    refuse(out, identity, overwrite=overwrite)
    folder, expected = real_path(out), _plain(identity)
    mark, work = folder / INTERRUPTED, folder / _WORK
    if not folder.exists():
        with atomic_directory(folder) as temporary:
            write_json(temporary / INTERRUPTED, expected)
    elif _differences(_content(mark), expected):
        # Before the new mark, under which checkpoints of another fit would count as ours.
        remove(work)
        write_json(mark, expected)
    work.mkdir(exist_ok=True)
    return work


def refuse(out: str | Path, identity: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Raise InputError if a fit may not write to `out`; arguments as for `claim`.

    Raises:
        InputError: `out` holds something else and `overwrite` is false, or it holds a file of
            neither a model nor an interrupted fit, which is never deleted.
    """
    known = _content(Path(out) / INTERRUPTED)
    refuse_target(Path(out), *LAYOUTS, overwrite=overwrite or known is not None)
    other = _differences(known, _plain(identity))
    if other and known is not None and not overwrite:
        raise InputError(
            f"{out} contains an interrupted fit with another {', '.join(other)}; repeat its "
            "options, choose another --out, or pass --overwrite",
            code="another-fit",
        )


def abandon(out: str | Path) -> None:
    """Delete the checkpoints of a failed fit, and `out` if it holds nothing else.

    Args:
        out: As for `claim`, which this process has called.
    """
    folder = real_path(out)
    (folder / INTERRUPTED).unlink(missing_ok=True)
    remove(folder / _WORK)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _plain(identity: Mapping[str, Any]) -> Any:
    """Return the identity as it reads back from the mark."""
    formats = {"format_version": FORMAT_VERSION, "format of checkpoints": _CHECKPOINT_FORMAT}
    return json.loads(json.dumps({**formats, **identity}))


def _differences(known: Mapping[str, Any] | None, expected: Mapping[str, Any]) -> list[str]:
    """Return the keys of an identity that a mark has otherwise, or that it lacks."""
    # Unknown keys are not compared, such as the backbone's fingerprint before it is loaded.
    return [key for key in expected if known is None or known.get(key) != expected[key]]


def _content(mark: Path) -> dict[str, Any] | None:
    """Return the content of a mark; None if it is missing or damaged."""
    try:
        content = read_json(mark)
    except InputError:
        return None
    return content if isinstance(content, dict) else None
