"""Measured cases, as rows of the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.speed.work import (
    ALL_LAYERS,
    PREDICTED,
    Run,
    all_scores,
    cold_evaluation,
    cold_prediction,
    head_fit,
    netcal_ece,
    our_ece,
    our_fit,
    our_laplace,
    our_prediction,
    peer_laplace,
    peft_fit,
    plain_prediction,
    process,
    second_fit,
    torchmetrics_ece,
    whole_fit,
)


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        work: Description of the work.
        sides: Runs by name, ours first.
        repeats: Number of runs per side.
        quick: Whether the case is part of `--quick`.
        usual: Whether the case runs by default.
    """

    work: str
    sides: Mapping[str, Run]
    repeats: int = 5
    quick: bool = True
    usual: bool = True


HEADS = (6, 20, 77, 400)
"""Numbers of classes for the closed-form heads."""

CASES: dict[str, Case] = {
    "fit-1-epoch": Case(
        "fit, 1 epoch, float32",
        {"PoLAR-VBLL": our_fit("float32", 1), "peft": peft_fit("float32", 1)},
    ),
    "fit-1-epoch-bfloat16": Case(
        "fit, 1 epoch, bfloat16",
        {"PoLAR-VBLL": our_fit("bfloat16", 1), "peft": peft_fit("bfloat16", 1)},
    ),
    "fit-5-epochs": Case(
        "fit, 5 epochs, float32",
        {"PoLAR-VBLL": our_fit("float32", 5), "peft": peft_fit("float32", 5)},
        quick=False,
    ),
    "fit-all-layers-float32": Case(
        "fit, 1 epoch, float32, adapters on all layers",
        {
            "PoLAR-VBLL": our_fit("float32", 1, "polar:num_layers=30"),
            "peft": peft_fit("float32", 1, ALL_LAYERS),
        },
        quick=False,
        usual=False,
    ),
    "methods": Case(
        "fit as by default, 24 words, loading left out, by method",
        {
            "PoLAR-VBLL": whole_fit(),
            "PoLAR-VBLL, cv 0": whole_fit(cv=0),
            "LoRA-MLE, cv 0": whole_fit("lora", "mle", cv=0),
            "LoRA-MLE, cv auto": whole_fit("lora", "mle", cv="auto"),
        },
        repeats=3,
        quick=False,
        usual=False,
    ),
    "second-fit": Case(
        "second fit of the same rows, last layer alone, default reading",
        {"states from disk": second_fit(cached=True), "pass again": second_fit(cached=False)},
    ),
    "predict": Case(
        f"{PREDICTED} predictions, float32",
        {
            "LoRA-VBLL": our_prediction("float32", "vbll"),
            "transformers": plain_prediction("float32"),
        },
    ),
    "predict-bfloat16": Case(
        f"{PREDICTED} predictions, bfloat16",
        {
            "LoRA-VBLL": our_prediction("bfloat16", "vbll"),
            "transformers": plain_prediction("bfloat16"),
        },
    ),
    "predict-blob": Case(
        f"{PREDICTED} predictions by 10 draws of BLoB, bfloat16",
        {
            "BLoB": our_prediction("bfloat16", "blob"),
            "LoRA-VBLL": our_prediction("bfloat16", "vbll"),
        },
        quick=False,
    ),
    **{
        f"head-{count}": Case(
            f"closed-form VBLL head, {count} classes", {"VBLL": head_fit(count)}, quick=count < 77
        )
        for count in HEADS
    },
    "laplace-fit": Case(
        "last-layer Laplace, Kronecker factors, 2,000 rows, 77 classes: fit",
        {"ours": our_laplace(predicts=False), "laplace-torch": peer_laplace(predicts=False)},
    ),
    "laplace-predict": Case(
        "the same: 25 predictions by probit",
        {"ours": our_laplace(predicts=True), "laplace-torch": peer_laplace(predicts=True)},
    ),
    "cold-evaluate": Case(
        "`bayeslora evaluate`, 200 rows, cold",
        {"evaluate": cold_evaluation, "import torch": process("-c", "import torch")},
    ),
    "cold-predict": Case(
        "`bayeslora predict`, 10 rows, cold",
        {
            "predict": cold_prediction,
            "import of the model's class": process(
                "-c", "from transformers.models.llama.modeling_llama import LlamaModel"
            ),
        },
    ),
    "evaluate-1e5": Case("all scores with intervals, 1e5 × 5", {"evaluate": all_scores(100_000)}),
    "evaluate-1e6": Case(
        "all scores with intervals, 1e6 × 5", {"evaluate": all_scores(1_000_000)}, quick=False
    ),
    "ece": Case(
        "ECE alone, 1e6 × 5",
        {"ours": our_ece, "netcal": netcal_ece, "torchmetrics": torchmetrics_ece},
    ),
}
