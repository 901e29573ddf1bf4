"""Accuracy of a classifier under adversarial perturbations of its inputs, without torch.

A perturbed embedding need not correspond to any text, so for texts this is robustness in embedding
space, not against attacks with words. For images it is robustness in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from bayeslora import options
from bayeslora.errors import InputError
from bayeslora.io.files import read_json
from bayeslora.metrics.scores import Score, without_nan
from bayeslora.option_checks import Count, Options, Seed, Strengths

KEYS = ("accuracy", "nll", "ece", "mean_confidence")
"""Scores of a curve."""

SPACES = {"embeddings": "embedding-space robustness", "pixels": "robustness in pixels"}
"""Perturbed inputs, and the name of the score."""

_FORMAT = 1


@dataclass(frozen=True)
class Attack(Options):
    """How inputs are perturbed: projected gradient ascent on the loss of the label."""

    name: ClassVar[str] = "attack"

    eps: Strengths | None = None
    """Radii of the perturbation: for texts shares of the mean norm of an embedding, in L2 per
    token; for images shares of the pixel range, in L∞. None means 0.05, 0.1 and 0.2 for texts, and
    1, 2, 4 and 8 of 255 for images."""
    steps: Count = 10
    """Number of gradient steps."""
    restarts: Count = 2
    """Number of random starts; the worst one counts for each row."""
    seed: Seed = 0
    """Seed of the random starts."""

    @classmethod
    def of(cls, value: object) -> Attack:
        """Return the attack given by an object, a mapping or a text such as `eps=0.1`.

        Raises:
            InputError: The value does not describe an attack.
        """
        return cls() if value is None else options.resolve_one(cls, value)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps is not None:
            radii = tuple(sorted({*self.eps} - {0.0}))
            object.__setattr__(self, "eps", radii)
            if not radii:
                raise InputError("eps must contain at least one number > 0")

    def radii(self, space: str) -> tuple[float, ...]:
        """Return the radii above 0 for a space."""
        default = (
            (0.05, 0.1, 0.2) if space == "embeddings" else (1 / 255, 2 / 255, 4 / 255, 8 / 255)
        )
        return self.eps or default


@dataclass(frozen=True)
class RobustnessPoint:
    """Scores of perturbed rows.

    Attributes:
        eps: Radius; 0 for unperturbed rows.
        scores: Scores by the keys of `KEYS`.
    """

    eps: float
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class Robustness:
    """The curve of a classifier: scores by the radius of the perturbation.

    Attributes:
        name: Name of the classifier.
        space: What is perturbed: `embeddings` or `pixels`.
        steps: Number of steps of the attack.
        restarts: Number of random starts.
        num_rows: Number of labelled rows.
        points: Points by increasing radius, from 0.
    """

    name: str
    space: str
    steps: int
    restarts: int
    num_rows: int
    points: tuple[RobustnessPoint, ...]

    @property
    def score(self) -> float:
        """The mean accuracy over the radii above 0."""
        accuracies = [point.scores["accuracy"].value for point in self.points if point.eps]
        return sum(accuracies) / len(accuracies)

    def to_json(self) -> dict[str, Any]:
        """Return the curve as plain mappings, lists and numbers, the format that `load` reads."""
        content = {
            "format_version": _FORMAT,
            "name": self.name,
            "space": self.space,
            "steps": self.steps,
            "restarts": self.restarts,
            "n": self.num_rows,
            "robustness": self.score,
            "points": [asdict(point) for point in self.points],
        }
        plain: dict[str, Any] = without_nan(content)
        return plain

    @classmethod
    def load(cls, path: str | Path) -> Robustness:
        """Read a curve from a file written by `bayeslora evaluate --attack --out`.

        Raises:
            InputError: The file holds no such curve.
        """
        content = read_json(Path(path))
        try:
            points = tuple(
                RobustnessPoint(
                    float(point["eps"]),
                    {key: Score.from_json(point["scores"][key]) for key in KEYS},
                )
                for point in content["points"]
            )
            steps, restarts, rows = (int(content[name]) for name in ("steps", "restarts", "n"))
            name, space = str(content["name"]), str(content["space"])
            curve = cls(name, space, steps, restarts, rows, points)
            is_valid = content["format_version"] == _FORMAT and curve.space in SPACES
        except (KeyError, TypeError, ValueError, AttributeError):
            is_valid = False
        if not is_valid or not any(point.eps for point in points):
            raise InputError(f"{path} is not a robustness curve of `bayeslora evaluate --attack`")
        return curve

    def save(self, path: str | Path) -> None:
        """Write the curve as JSON."""
        text = json.dumps(self.to_json(), indent=2) + "\n"
        Path(path).write_text(text, encoding="utf-8")


def check_curves(curves: Sequence[Robustness]) -> None:
    """Raise InputError if curves are of different spaces.

    Args:
        curves: Curves of several classifiers.
    """
    spaces = sorted({curve.space for curve in curves})
    if len(spaces) > 1:
        raise InputError(
            f"robustness in {' and in '.join(spaces)} cannot be shown in one table; give only one "
            "of them"
        )
