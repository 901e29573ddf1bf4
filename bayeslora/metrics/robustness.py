"""How much accuracy a classifier keeps where its inputs are perturbed against it; free of torch.

A perturbed embedding need not be that of any text, so for texts this is robustness in the space of
embeddings, and no statement about attacks with words. For images it is one about pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from bayeslora import options
from bayeslora.errors import InputError
from bayeslora.files import read_json
from bayeslora.metrics.scores import Score, without_nan
from bayeslora.option_checks import Count, Options, Range, Seed, is_number

KEYS = ("accuracy", "nll", "ece", "mean_confidence")
"""Scores of a curve."""

SPACES = {"embeddings": "embedding-space robustness", "pixels": "robustness in pixels"}
"""What is perturbed, and what the score is called."""

_FORMAT = 1


@dataclass(frozen=True)
class Attack(Options):
    """How inputs are perturbed: projected gradient ascent on the loss of the label."""

    name: ClassVar[str] = "attack"

    eps: Annotated[
        tuple[Annotated[float, Range(0, 10)], ...] | None,
        "Radii: for texts shares of the mean norm of an embedding, in L2 for each token; for "
        "images shares of the pixels' range, in L∞. None takes 0.05, 0.1 and 0.2 for texts, and 1, "
        "2, 4 and 8 of 255 for images.",
    ] = None
    steps: Annotated[Count, "Steps up the gradient."] = 10
    restarts: Annotated[Count, "Random starts, of which the worst one counts for each row."] = 2
    seed: Annotated[Seed, "Of the starts."] = 0

    @classmethod
    def of(cls, value: object) -> Attack:
        """Return the attack that an object, a mapping or a text such as `eps=0.1` stands for.

        Raises:
            InputError: It is none.
        """
        if value is None or value == "on":
            return cls()
        if isinstance(value, str):
            value = options.parsed(cls.name, value)
        if isinstance(value, Mapping):
            eps = value.get("eps")
            value = {"name": cls.name, **value, **({"eps": [eps]} if is_number(eps) else {})}
        found: Attack = options.resolve(cls.name, value, {cls.name: cls})
        return found

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps is not None:
            radii = tuple(sorted({float(one) for one in self.eps} - {0.0}))
            object.__setattr__(self, "eps", radii)
            if not radii:
                raise InputError("eps must hold a number above 0")

    def radii(self, space: str) -> tuple[float, ...]:
        """Return the radii above 0 for what is perturbed."""
        usual = (0.05, 0.1, 0.2) if space == "embeddings" else (1 / 255, 2 / 255, 4 / 255, 8 / 255)
        return self.eps or usual


@dataclass(frozen=True)
class RobustnessPoint:
    """Scores of perturbed rows.

    Attributes:
        eps: Radius; 0 for the rows as they are.
        scores: Those of `KEYS`.
    """

    eps: float
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class Robustness:
    """The curve of a classifier: scores by the radius of the perturbation.

    Attributes:
        name: Of the classifier.
        space: What is perturbed: `embeddings` or `pixels`.
        steps: Steps of the attack.
        restarts: Random starts.
        num_rows: Labelled rows.
        points: By rising radius, from 0 on.
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
        """Return what `from_json` reads."""
        points = [
            {
                "eps": point.eps,
                "scores": {
                    key: {"value": one.value, "low": one.low, "high": one.high}
                    for key, one in point.scores.items()
                },
            }
            for point in self.points
        ]
        found = {
            "format_version": _FORMAT,
            "name": self.name,
            "space": self.space,
            "steps": self.steps,
            "restarts": self.restarts,
            "n": self.num_rows,
            "robustness": self.score,
            "points": points,
        }
        plain: dict[str, Any] = without_nan(found)
        return plain

    @classmethod
    def load(cls, path: str | Path) -> Robustness:
        """Return the curve in a file that `bayeslora evaluate --attack --out` wrote.

        Raises:
            InputError: It is no such file.
        """
        content = read_json(Path(path))
        try:
            points = tuple(
                RobustnessPoint(
                    float(point["eps"]),
                    {key: _score(point["scores"][key]) for key in KEYS},
                )
                for point in content["points"]
            )
            steps, restarts, rows = (int(content[name]) for name in ("steps", "restarts", "n"))
            name, space = str(content["name"]), str(content["space"])
            found = cls(name, space, steps, restarts, rows, points)
            known = content["format_version"] == _FORMAT and found.space in SPACES
        except (KeyError, TypeError, ValueError):
            known = False
        if not known or not any(point.eps for point in points):
            raise InputError(f"{path} is no robustness curve of `bayeslora evaluate --attack`")
        return found

    def save(self, path: str | Path) -> None:
        """Write the curve as JSON."""
        text = json.dumps(self.to_json(), indent=2) + "\n"
        Path(path).write_text(text, encoding="utf-8")


def _score(content: Mapping[str, Any]) -> Score:
    return Score(*(_number(content[name]) for name in ("value", "low", "high")))


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def check_curves(curves: Sequence[Robustness]) -> None:
    """Raise InputError for curves that are no ones of one space.

    Args:
        curves: Of several classifiers.
    """
    spaces = sorted({one.space for one in curves})
    if len(spaces) > 1:
        raise InputError(
            f"robustness in {' and in '.join(spaces)} cannot stand in one table; give one of them"
        )
