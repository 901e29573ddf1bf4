"""Global random generators, which belong to the caller."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def restored_random_state() -> Iterator[None]:
    """Give the global generators of Python, NumPy and torch back as they were, on every device.

    What libraries draw from them, and seed them for, does not reach the caller's own draws then.
    """
    import numpy as np
    import torch

    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if started else ()
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
