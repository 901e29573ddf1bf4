"""What makes work fast, each taken away alone.

A measurement is a process of its own, so that a part is taken away for good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.speed.work import Run


def without(part: str, run: Run) -> Run:
    """Return the same work without a part."""

    def changed() -> float:
        PARTS[part]()
        return run()

    return changed


def _all_tokens() -> None:
    from bayeslora.backbones.encoder import Encoder

    Encoder._narrows = lambda _: False  # type: ignore[method-assign]


def _random_batches() -> None:
    import numpy as np

    from bayeslora.engine.trainer import LengthBatchSampler

    plain = LengthBatchSampler.__init__

    def begin(self: LengthBatchSampler, lengths: object, batch_size: int, seed: int) -> None:
        plain(self, np.zeros_like(lengths), batch_size, seed)

    LengthBatchSampler.__init__ = begin  # type: ignore[method-assign, assignment]


def _own_attention() -> None:
    from bayeslora.backbones import load

    load.use_short_attention = lambda _: None


def _scale_of_all() -> None:
    from bayeslora.engine import rows

    rows.SCALE_ROWS = 1_000_000


def _one_stage() -> None:
    from bayeslora.posteriors.last_layer.vbll.triangular import Dense

    Dense.approach = ()


def _short_steps() -> None:
    from bayeslora.posteriors.last_layer.vbll import ascent

    ascent._secant = lambda _, short, __: short


PARTS: Mapping[str, Callable[[], None]] = {
    "last token": _all_tokens,
    "length batches": _random_batches,
    "short attention": _own_attention,
    "feature scale": _scale_of_all,
    "stages": _one_stage,
    "secant": _short_steps,
}
"""By name, what takes a part away in this process."""
