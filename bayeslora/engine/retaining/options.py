"""Options of the quality-retaining loss, free of torch.

Source: Zhong et al. 2024, arXiv 2501.06884, section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from bayeslora import options
from bayeslora.option_checks import BelowOne, OnlyWith, Options, Positive


@dataclass(frozen=True)
class QualityRetaining(Options):
    """A loss that keeps logits near recent ones of their class; its weight grows as the loss falls.

    Beside several tasks (`fit --multi-task`), each has a running loss of its own, so that one that
    is learnt already waits for the others. It changes how confident a classifier is.
    """

    name: ClassVar[str] = "quality_retaining"
    summary: ClassVar[str] = "loss that keeps learnt examples near the recent logits of their class"
    source: ClassVar[str] = "Zhong et al. 2024, arXiv 2501.06884"
    parameters: ClassVar[str] = "none"
    only_with: ClassVar[OnlyWith] = dict.fromkeys(
        ("momentum", "largest", "only_correct"), (("published", False),)
    )

    momentum: Annotated[
        BelowOne,
        "Share of the stored logits of a class that is kept when rows of the class are seen.",
    ] = 0.9
    temperature: Annotated[
        Positive, "Temperature T, by which logits are divided where they are compared."
    ] = 2.0
    largest: Annotated[Positive, "Upper limit of the weight 1 / (running loss of the task)."] = 10.0
    only_correct: Annotated[
        bool, "Whether misclassified rows leave the stored logits of their class unchanged."
    ] = True
    published: Annotated[
        bool,
        "The published form: the last two logit vectors of each class from all rows, with zeros "
        "before the first, and no limit.",
    ] = False


def resolve_retaining(value: Any) -> QualityRetaining | None:
    """Return the options given as an object, a mapping, a flag or text.

    Args:
        value: `QualityRetaining(...)`, its options as a mapping or as text such as
            `momentum=0.8,temperature=1`, `True` or `on` for the defaults, None or `False` for none.

    Raises:
        InputError: An option or its value is not allowed.
    """
    if value is None or value is False:
        return None
    if value is True or value == "on":
        return QualityRetaining()
    return options.resolve_one(QualityRetaining, value)
