"""Run the whole campaign: `python -m tests.faults --out reports/reliability`."""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", MPLBACKEND="agg")

from .campaign import main

if __name__ == "__main__":
    raise SystemExit(main())
