"""Timed work of our package and of other libraries.

Most functions return a run, which sets up and does the work and returns its seconds. Imports are in
the functions, so that a process imports only what it measures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROWS, PREDICTED, WORDS, THREADS, MAX_LENGTH, ALL_LAYERS = 640, 320, 8, 2, 128, 30
FEATURES = 576
WHOLE: dict[str, Any] = {"depth": 1.0, "template": "{text}", "verbaliser": "none"}
Run = Callable[[], float]
"""Sets up and does the work; returns its seconds."""


def texts(split: str, count: int, words: int = WORDS) -> Any:
    """Return rows with texts of at most `words` words."""
    from dataclasses import replace

    from bayeslora.data.newsgroups import load_newsgroups

    pool = {"num_train": max(ROWS, count), "num_test": PREDICTED}
    rows = getattr(load_newsgroups(**pool), split)
    short = tuple(" ".join(text.split()[:words]) for text in rows.texts)
    # Rows are sorted by class.
    spread = np.linspace(0, len(rows) - 1, count).astype(int)
    return replace(rows, texts=short).take(spread)


def clock(work: Callable[[], object]) -> float:
    """Return the wall-clock time of `work` in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def our_fit(dtype: str, epochs: int, adapter: str = "polar") -> Run:
    """Return a run of a fit, imports and loading included."""

    def run() -> float:
        rows = texts("train", ROWS)

        def work() -> None:
            from bayeslora import BayesianClassifier

            clf = BayesianClassifier("smollm2-135m", adapter, dtype=dtype, progress=False, **WHOLE)
            clf.fit(rows, epochs=epochs, cv=0)

        return clock(work)

    return run


def whole_fit(adapter: str = "polar", posterior: str = "vbll", cv: int | str | None = None) -> Run:
    """Return a run of a default fit to texts of 24 words; `cv` None is that of the posterior."""

    def run() -> float:
        from bayeslora import BayesianClassifier
        from bayeslora.backbones.load import load_backbone

        rows, backbone = texts("train", ROWS, 24), load_backbone("smollm2-135m")
        clf = BayesianClassifier(backbone, adapter, posterior, progress=False)
        options = {} if cv is None else {"cv": cv}
        return clock(lambda: clf.fit(rows, **options))

    return run


def peft_fit(dtype: str, epochs: int, upper: int = 6) -> Run:
    """Return a run of peft with transformers' Trainer and batches of similar length."""

    def run() -> float:
        from bayeslora.backbones.embedded import embedded_directory

        source, rows = str(embedded_directory("smollm2-135m")), texts("train", ROWS)
        names = sorted(set(rows.labels))

        def work() -> None:
            import torch
            from peft import LoraConfig, get_peft_model
            from transformers import (
                AutoModelForSequenceClassification,
                AutoTokenizer,
                DataCollatorWithPadding,
                Trainer,
                TrainingArguments,
            )

            tokenizer = AutoTokenizer.from_pretrained(source)
            model = AutoModelForSequenceClassification.from_pretrained(
                source, num_labels=len(names), dtype=getattr(torch, dtype)
            )
            model.config.pad_token_id = tokenizer.pad_token_id
            layers = model.config.num_hidden_layers
            config = LoraConfig(
                task_type="SEQ_CLS",
                r=8,
                lora_alpha=16,
                target_modules=["q_proj", "v_proj"],
                layers_to_transform=list(range(layers - upper, layers)),
            )
            encoded = tokenizer(list(rows.texts), truncation=True, max_length=MAX_LENGTH)
            data = [
                {"input_ids": ids, "labels": names.index(label)}
                for ids, label in zip(encoded["input_ids"], rows.labels, strict=True)
            ]
            with tempfile.TemporaryDirectory() as folder:
                arguments = TrainingArguments(
                    output_dir=folder,
                    num_train_epochs=epochs,
                    per_device_train_batch_size=16,
                    learning_rate=3e-3,
                    save_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                    use_cpu=True,
                    dataloader_pin_memory=False,
                    train_sampling_strategy="group_by_length",
                )
                Trainer(
                    get_peft_model(model, config),
                    arguments,
                    train_dataset=data,
                    data_collator=DataCollatorWithPadding(tokenizer),
                ).train()

        return clock(work)

    return run


def our_prediction(dtype: str, posterior: str) -> Run:
    """Return a run of predictions by a short fit, frozen layers included."""

    def run() -> float:
        from bayeslora import BayesianClassifier
        from bayeslora.backbones.load import load_backbone

        backbone = load_backbone("smollm2-135m", dtype=dtype)
        clf = BayesianClassifier(backbone, "lora", posterior, progress=False, **WHOLE)
        clf.fit(texts("train", 96), epochs=1, cv=0)
        rows = texts("test", PREDICTED)
        clf.predict(rows.take(range(32)))
        backbone.prefix_states.clear()
        return clock(lambda: clf.predict(rows))

    return run


def plain_prediction(dtype: str) -> Run:
    """Return a run of predictions by plain transformers, sorted by length, in batches of 32."""

    def run() -> float:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from bayeslora.backbones.embedded import embedded_directory

        source = str(embedded_directory("smollm2-135m"))
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=8, dtype=getattr(torch, dtype)
        ).eval()
        model.config.pad_token_id = tokenizer.pad_token_id
        rows = list(texts("test", PREDICTED).texts)

        @torch.inference_mode()
        def predict(rows: list[str]) -> None:
            ids = tokenizer(rows, truncation=True, max_length=MAX_LENGTH)["input_ids"]
            ids = sorted(ids, key=len)
            for start in range(0, len(ids), 32):
                part = tokenizer.pad({"input_ids": ids[start : start + 32]}, return_tensors="pt")
                model(**part).logits.float().softmax(-1)

        predict(rows[:32])
        return clock(lambda: predict(rows))

    return run


def _head_rows(num_classes: int) -> tuple[Any, Any]:
    """Return features [640, d] with a mean squared norm of about 1, and labels [640]."""
    import torch

    draw = torch.Generator().manual_seed(num_classes)
    labels = torch.arange(ROWS) % num_classes
    centres = 0.12 * torch.randn(num_classes, FEATURES, generator=draw)
    scale = torch.logspace(0, -1.5, FEATURES)
    features = centres[labels] + torch.randn(ROWS, FEATURES, generator=draw)
    return features * scale / scale.square().sum().sqrt(), labels


def head_fit(num_classes: int) -> Run:
    """Return a run of the closed-form fit of a variational last layer to 640 rows."""

    def run() -> float:
        from bayeslora import VBLL
        from bayeslora.posteriors.registry import build_head
        from bayeslora.posteriors.types import Features

        config = VBLL(polish_mean="refit").sized(num_classes, FEATURES, ROWS)
        rows = Features(*_head_rows(num_classes))
        head = build_head(config, FEATURES, num_classes)
        return clock(lambda: head.fit(rows))

    return run


def drawn_predictions(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return overconfident probabilities [N, 5] and labels [N]."""
    draw = np.random.default_rng(0)
    logits = draw.normal(scale=2, size=(count, 5))
    true, stated = (np.exp(scale * logits) for scale in (1.0, 1.3))
    true, stated = (part / part.sum(1, keepdims=True) for part in (true, stated))
    labels = (true.cumsum(1) < draw.random((count, 1))).sum(1).clip(0, 4)
    return stated, labels


def all_scores(count: int) -> Run:
    """Return a run of all scores of `count` rows, with intervals."""

    def run() -> float:
        from bayeslora import Predictions, evaluate

        probs, labels = drawn_predictions(count)
        predictions = Predictions(probs=probs, classes=tuple("abcde"), labels=labels)
        return clock(lambda: evaluate(predictions))

    return run


def our_ece() -> float:
    """Return the seconds of one ECE."""
    from bayeslora.metrics.calibration import ece, top_label

    probs, labels = drawn_predictions(1_000_000)

    def work() -> float:
        chosen = probs.argmax(1)
        return ece(top_label(probs[np.arange(len(probs)), chosen], chosen == labels))

    return clock(work)


def netcal_ece() -> float:
    """Return the seconds of one ECE by netcal."""
    from netcal.metrics import ECE

    probs, labels = drawn_predictions(1_000_000)
    return clock(lambda: ECE(15).measure(probs, labels))


def torchmetrics_ece() -> float:
    """Return the seconds of one ECE by torchmetrics."""
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    probs, labels = map(torch.from_numpy, drawn_predictions(1_000_000))
    return clock(lambda: multiclass_calibration_error(probs, labels, num_classes=5, n_bins=15))


def second_fit(*, cached: bool) -> Run:
    """Return a run of another fit to the same rows, with or without cached states."""

    def run() -> float:
        from bayeslora import BayesianClassifier

        rows = texts("train", ROWS)
        with tempfile.TemporaryDirectory() as folder:
            os.environ["BAYESLORA_CACHE_GIB"] = "2" if cached else "0"
            from bayeslora.backbones.embedded import embedded_directory
            from bayeslora.backbones.load import load_backbone

            source = str(embedded_directory("smollm2-135m"))
            os.environ["BAYESLORA_CACHE"] = folder

            def work() -> None:
                clf = BayesianClassifier(load_backbone(source), "none", "vbll", progress=False)
                clf.fit(rows)

            work()
            return clock(work)

    return run


def laplace_features() -> tuple[Any, Any, Any]:
    """Return features [N, d], labels [N] and a fitted layer, for last-layer Laplace."""
    import torch
    from torch import nn

    count, classes, size = 2000, 77, 576
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (count,), generator=draw)
    centres = 1.5 * torch.randn(classes, size, generator=draw)
    features = (centres[labels] + torch.randn(count, size, generator=draw)) / size**0.5
    layer = nn.Linear(size, classes, bias=False)
    nn.init.zeros_(layer.weight)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=60)

    def loss() -> Any:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(layer(features), labels)
        value = value + 0.5 / count * layer.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return features, labels, layer


def our_laplace(*, predicts: bool) -> Run:
    """Return a run of a Kronecker-factored last-layer fit, or of its 25 predictions by probit."""

    def run() -> float:

        from bayeslora import Laplace
        from bayeslora.links import link_probabilities
        from bayeslora.posteriors.registry import build_head
        from bayeslora.posteriors.types import Features

        features, labels, layer = laplace_features()
        norm = float(features.square().sum(1).mean())
        config = Laplace(structure="kron", prior_precision=1.0)
        head = build_head(config, *layer.weight.shape[::-1], mean_sq_norm=norm)
        head.set_mean(layer.weight.data)
        seconds = clock(lambda: head.fit(Features(features, labels)))
        if not predicts:
            return seconds
        rows = Features(features[:25])
        return clock(lambda: link_probabilities(head.predict(rows), link="probit"))

    return run


def peer_laplace(*, predicts: bool) -> Run:
    """Return the run of `our_laplace` for laplace-torch."""

    def run() -> float:
        from laplace import Laplace
        from torch import nn
        from torch.utils.data import DataLoader, TensorDataset

        features, labels, layer = laplace_features()
        posterior = Laplace(
            nn.Sequential(nn.Identity(), layer),
            "classification",
            subset_of_weights="last_layer",
            hessian_structure="kron",
            prior_precision=1.0,
        )
        rows = DataLoader(TensorDataset(features, labels), batch_size=256)
        seconds = clock(lambda: posterior.fit(rows))
        return (
            clock(lambda: posterior(features[:25], link_approx="probit")) if predicts else seconds
        )

    return run


def process(*command: str) -> Run:
    """Return a run of a Python command in a new process."""
    return lambda: clock(
        lambda: subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    )


def cold_evaluation() -> float:
    """Return the seconds of `bayeslora evaluate` on 200 rows."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.csv"
        lines = [f"{'ab'[n % 2]},{0.3 + 0.05 * (n % 7)},{0.7 - 0.05 * (n % 7)}" for n in range(200)]
        file.write_text("\n".join(["label,prob_a,prob_b", *lines]) + "\n", encoding="utf-8")
        return process("-m", "bayeslora", "evaluate", str(file))()


def cold_prediction() -> float:
    """Return the seconds of `bayeslora predict` on 10 rows."""
    from bayeslora import BayesianClassifier

    with tempfile.TemporaryDirectory() as folder:
        model, data, out = (f"{folder}/{name}" for name in ("model", "rows.jsonl", "out.csv"))
        clf = BayesianClassifier("smollm2-135m", progress=False, **WHOLE)
        clf.fit(texts("train", 64), epochs=1, out=model, cv=0)
        rows = texts("test", 10).texts
        lines = "".join(json.dumps({"text": text}) + "\n" for text in rows)
        Path(data).write_text(lines, encoding="utf-8")
        return process("-m", "bayeslora", "predict", model, data, "--out", out, "--quiet")()
