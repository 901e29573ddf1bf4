"""Peak memory of a command, and large predictions files as its input."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_CELLS = 4_000_000  # values drawn at a time


def write_predictions(file: Path, rows: int, classes: int, seed: int = 0) -> None:
    """Write random predictions in parts, with labels drawn from the probabilities."""
    generator = np.random.default_rng(seed)
    size = max(1, _CELLS // classes)
    writer = None
    for start in range(0, rows, size):
        count = min(size, rows - start)
        logits = generator.gumbel(size=(count, classes)) * 2
        probs = np.exp(logits - logits.max(1, keepdims=True))
        probs /= probs.sum(1, keepdims=True)
        labels = np.argmax(np.log(probs) + generator.gumbel(size=probs.shape), axis=1)
        names = pa.array([f"class-{k}" for k in range(classes)])
        numbers = pa.array(np.arange(start, start + count)).cast(pa.string())
        table = pa.table(
            {
                "id": pc.binary_join_element_wise("row", numbers, "-"),
                "label": names.take(pa.array(labels)),
                **{f"prob_{name}": probs[:, k] for k, name in enumerate(names.to_pylist())},
            }
        )
        writer = writer or pq.ParquetWriter(file, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def peak(*command: str) -> float:
    """Run a command and return its peak resident memory in GiB."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return round(usage.ru_maxrss * unit / 2**30, 2)
