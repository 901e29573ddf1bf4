"""Errors that a user can act on.

The command line turns `InputError` into exit code 2 and prints only its message, so a message is
one or two lines naming the file, the row, the column, the value and the allowed values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from bayeslora.plain_text import quoted

CODES = {
    "input": "The input is invalid; the message has the details.",
    "another-backbone": "The model was made for another backbone.",
    "another-fit": "The directory holds an interrupted fit with other options or data.",
    "another-model": "The calibration is of another model, or of other classes.",
    "busy": "Another process writes to the same output.",
    "clash": "Two options cannot be given together.",
    "damaged": "A file is damaged, or does not match the other files of its model.",
    "diverged": "Training produced numbers that are not finite.",
    "exists": "The output already exists and would be overwritten.",
    "factors-hold-weight": "The adapter's factors contain part of the pretrained weight.",
    "from-start": "The posterior must be fitted from the start, not to a finished network.",
    "gated": "A gate between the factors makes the change of a weight depend on the input.",
    "missing": "An optional package, an embedded model or a data set is not installed.",
    "needs-validation": "The posterior needs validation data.",
    "no-adapter": "The posterior is over adapter weights, and there is no adapter.",
    "no-dropout": "The posterior samples dropout, and no dropout is active.",
    "no-effect": "An option has no effect with the other options.",
    "no-factors": "The posterior is over low-rank factors, and the adapter has none.",
    "no-free-factor": "The posterior needs an adapter with a random first factor, such as LoRA.",
    "no-middle": "The score needs states in the middle of the backbone, and the model has none.",
    "no-update": "The posterior takes no more rows without a new fit.",
    "not-fitted": "Nothing is fitted yet.",
    "not-on-options": "The posterior does not support the format `options`.",
    "not-shared": "The method cannot be trained by several processes.",
    "not-with-adapter": "The adapter does not support the posterior or the option.",
    "option": "An option has an invalid value.",
    "package": "A method of another package is invalid, or its name is taken.",
    "row": "A row of predictions is invalid.",
    "second-gate": (
        "The posterior's gate conflicts with the adapter, which has its own gate or moves its "
        "factors."
    ),
    "several-networks": "Exactly one network is needed, and the model has several.",
    "shared-layers": "Layers share weights, and the posterior needs each layer to be called once.",
    "soft-labels": "The method does not learn from soft labels.",
    "too-short": "Training is too short for the posterior.",
    "unknown": "A name is unknown.",
}
"""Values of `InputError.code` with their meanings; the message has the details."""


class InputError(ValueError):
    """An input is invalid: an option, a file, a value in a file.

    Attributes:
        code: The reason, a key of `CODES`. Codes are stable, while messages may change.
        options: Names of options in the message, which the command line shows as they are typed.
    """

    code = "input"
    options: tuple[str, ...] = ()

    def __init__(self, message: str, *, code: str = "", options: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        if code:
            self.code = code
        self.options = options

    def within(self, location: object, *options: str) -> InputError:
        """Return the same error with its location, which may name options, before the message."""
        message = f"{location}: {self}"
        return InputError(message, code=self.code, options=options or self.options)


@contextmanager
def located(location: object, *options: str) -> Iterator[None]:
    """Put a location at the start of the message of an `InputError` that is raised within."""
    try:
        yield
    except InputError as error:
        raise error.within(location, *options) from None


class FailedError(RuntimeError):
    """A failure that no input has caused; its message is complete."""


class RowError(InputError):
    """A row of a record is invalid; a caller that knows the file adds its name.

    Attributes:
        row: Index of the row, from 0.
        problem: Message after the row's name.
        other: Index of the row whose name ends the message, or None.
    """

    code = "row"

    def __init__(self, row: int, problem: str, other: int | None = None) -> None:
        self.row = row
        self.problem = problem
        self.other = other
        super().__init__(self.named(lambda index: f"row {index + 1}"))

    def named(self, name_of: Callable[[int], str]) -> str:
        """Return the message, with rows named by `name_of`."""
        end = "" if self.other is None else f" {name_of(self.other)}"
        return f"{name_of(self.row)}{self.problem}{end}"


class MissingAssetError(InputError):
    """An optional package, an embedded model or a data set is not installed."""

    code = "missing"


class DivergedError(InputError):
    """Training diverged to numbers that nothing can be fitted to, and would do so again."""

    code = "diverged"


def unknown_choice(kind: str, value: str, allowed: Iterable[str]) -> InputError:
    """Return the error for a name outside a closed set, with the most similar allowed name.

    Args:
        kind: What the name stands for, such as `link` or `adapter`.
        value: The unknown name.
        allowed: All accepted names.

    Example:
        >>> print(unknown_choice("link", "probitt", ["mc", "probit"]))
        unknown link 'probitt' (did you mean 'probit'?); choose from 'mc', 'probit'
    """
    names = sorted(allowed)
    near = get_close_matches(value.lower(), names, n=1)
    hint = f" (did you mean {quoted(near[0])}?)" if near else ""
    choices = f"choose from {', '.join(map(quoted, names))}" if names else "there is none"
    return InputError(f"unknown {kind} {quoted(value)}{hint}; {choices}", code="unknown")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().split("\n", 1)[0]
