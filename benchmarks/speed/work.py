"""Timed work of our package and of other libraries.

Most functions return a run, which sets up and does the work and returns its seconds. Imports are in
the functions, so that a process imports only what it measures.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROWS, PREDICTED, WORDS, THREADS, MAX_LENGTH, ALL_LAYERS = 640, 320, 8, 2, 128, 30
FEATURES = 576
_TAU, _NEAR, _ENOUGH = 2.0, 0.01, 20.0
WHOLE = {"depth": 1.0, "template": "{text}", "verbaliser": "none"}
Run = Callable[[], Any]
"""Sets up and does the work; returns its seconds, or a dict with seconds and other figures."""


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


def accepted(function: Callable[..., object], **options: Any) -> dict[str, Any]:
    """Return the options that a function accepts; an older version lacks some."""
    known = inspect.signature(function).parameters
    is_open = any(item.kind is item.VAR_KEYWORD for item in known.values())
    return {name: value for name, value in options.items() if is_open or name in known}


def our_fit(dtype: str, epochs: int, adapter: str = "polar") -> Run:
    """Return a run of a fit, imports and loading included."""

    def run() -> float:
        rows = texts("train", ROWS)

        def work() -> None:
            from bayeslora import BayesianClassifier

            options = accepted(BayesianClassifier, dtype=dtype, **WHOLE)
            clf = BayesianClassifier("smollm2-135m", adapter, progress=False, **options)
            clf.fit(rows, epochs=epochs, **accepted(clf.fit, cv=0))

        return clock(work)

    return run


def whole_fit(
    adapter: str = "polar", posterior: str = "vbll", cv: int | str | None = None, **reading: Any
) -> Run:
    """Return a run of a default fit to texts of 24 words; `cv` None is that of the posterior."""

    def run() -> float:
        from bayeslora import BayesianClassifier
        from bayeslora.backbones.load import load_backbone

        rows, backbone = texts("train", ROWS, 24), load_backbone("smollm2-135m")
        clf = BayesianClassifier(backbone, adapter, posterior, progress=False, **reading)
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


def our_prediction(
    dtype: str,
    posterior: str,
    *,
    adapter: str = "lora",
    default_reading: bool = False,
    **fit_options: Any,
) -> Run:
    """Return a run of predictions by a short fit, frozen layers included."""

    def run() -> float:
        from bayeslora import BayesianClassifier
        from bayeslora.backbones.load import load_backbone

        backbone = load_backbone("smollm2-135m", dtype=dtype)
        options = accepted(BayesianClassifier, **({} if default_reading else WHOLE))
        clf = BayesianClassifier(backbone, adapter, posterior, progress=False, **options)
        clf.fit(texts("train", 96), epochs=1, **accepted(clf.fit, **{"cv": 0} | fit_options))
        rows = texts("test", PREDICTED)
        clf.predict(rows.take(range(32)))
        states = getattr(backbone, "prefix_states", None)
        if states is not None:
            states.clear()
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


def _rows(features: Any, labels: Any = None) -> tuple[Any, ...]:
    """Return the arguments of a last layer for rows."""
    try:
        from bayeslora.posteriors.features import Features
    except ImportError:  # an older version
        return (features,) if labels is None else (features, labels)
    return (Features(features, labels),)


def _head(config: Any, *size: int, **options: Any) -> Any:
    """Create the last layer of a posterior."""
    try:
        from bayeslora.posteriors.registry import build_head
    except ImportError:  # an older version
        from bayeslora.posteriors.build import build as build_head
    return build_head(config, *size, **options)


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

        config = VBLL(polish_mean="refit")
        if hasattr(config, "sized"):
            config = config.sized(num_classes, FEATURES, ROWS)
        else:  # an older version
            from bayeslora.posteriors.cost import affordable

            config = affordable(config, num_classes, FEATURES, ROWS)
        features, labels = _head_rows(num_classes)
        head: Any = _head(config, FEATURES, num_classes)
        return clock(lambda: head.fit(*_rows(features, labels)))

    return run


def _jensen_head(num_classes: int) -> tuple[Any, Any, Any, float]:
    """Return an unfitted head with a fixed prior, its rows, and the prior variance of a weight."""
    from bayeslora import VBLL

    features, labels = _head_rows(num_classes)
    norm = float(features.square().sum(1).mean())
    config = VBLL(covariance="dense", polish_bound="jensen", prior_scale=_TAU, polish_mean="refit")
    head: Any = _head(config, FEATURES, num_classes, mean_sq_norm=norm)
    return head, features, labels, _TAU**2 / norm


def our_jensen_head(num_classes: int) -> Run:
    """Return a run of the fit of a dense head by Jensen's bound, as in the package `vbll`."""

    def run() -> float:
        head, features, labels, _ = _jensen_head(num_classes)
        return clock(lambda: head.fit(*_rows(features, labels)))

    return run


def peer_head(num_classes: int) -> Run:
    """Return a run of the package `vbll` with AdamW and the best of three learning rates.

    A fit ends with the epoch whose bound is within `_NEAR` nats per row of our optimum, or after
    `_ENOUGH` seconds, with its distance from the optimum in the result. Its noise of logits, which
    our model lacks, is close to zero. Batches are small, since it stores a matrix for every row and
    class.
    """

    def run() -> dict[str, float]:
        head, features, labels, variance = _jensen_head(num_classes)
        head.fit(*_rows(features, labels))
        aim = float(head.fitted_elbo) - _NEAR
        tried = [_peer_fit(features, labels, variance, aim, rate) for rate in (1e-2, 3e-2, 1e-1)]
        return min(tried, key=lambda fit: (fit.get("nats_left", 0.0), fit["seconds"]))

    return run


def _peer_fit(
    features: Any, labels: Any, variance: float, aim: float, rate: float
) -> dict[str, float]:
    import torch
    import vbll

    from bayeslora.posteriors.last_layer.vbll.covariance import logit_covariance

    size, num_classes = features.shape[1], int(labels.max()) + 1
    torch.manual_seed(0)
    # `vbll` multiplies the prior's scale by 2 / d.
    layer = vbll.DiscClassification(
        size, num_classes, 1 / ROWS, parameterization="dense", prior_scale=variance * size / 2
    )
    layer.noise_logdiag.requires_grad_(False).fill_(-12)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=rate, weight_decay=0)

    def step(rows: Any) -> None:
        optimizer.zero_grad()
        layer(features[rows]).train_loss_fn(labels[rows]).backward()
        optimizer.step()

    @torch.no_grad()
    def bound() -> float:
        # The bound of `vbll` would store a matrix for every row and class.
        means, triangles = layer.W().loc, layer.W().scale_tril
        logits = features @ means.T
        raised = logits + logit_covariance(features, triangles) / 2
        likelihood = (logits[torch.arange(ROWS), labels] - raised.logsumexp(1)).sum()
        posterior = torch.distributions.MultivariateNormal(means, scale_tril=triangles)
        start = torch.eye(size) * variance**0.5
        prior = torch.distributions.MultivariateNormal(torch.zeros(size), scale_tril=start)
        apart = torch.distributions.kl_divergence(posterior, prior).sum()
        return float((likelihood - apart) / ROWS)

    spent, steps, reached = 0.0, 0, bound()
    while spent < _ENOUGH and reached < aim:
        for rows in torch.randperm(ROWS).split(32):
            if spent < _ENOUGH:
                spent, steps = spent + clock(partial(step, rows)), steps + 1
        reached = bound()
    result = {"seconds": spent, "steps": float(steps)}
    return result if reached >= aim else result | {"nats_left": aim + _NEAR - reached}


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
    from bayeslora.metrics.calibration import ece
    from bayeslora.metrics.top_label import top_label

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


def second_fit(adapter: str = "none", *, cached: bool) -> Run:
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

            def work(name: str) -> None:
                clf = BayesianClassifier(load_backbone(source), name, "vbll", progress=False)
                clf.fit(rows, **({} if name == "none" else {"epochs": 1, "cv": 0}))

            work("none" if adapter == "none" else "polar")
            return clock(lambda: work(adapter))

    return run


def _hundred_steps(parameter: Callable[[Any], Any], optimizer: Callable[[Any], Any]) -> float:
    """Return the seconds of 100 steps for 120 orthonormal factors of 576 x 8, as in 60 layers."""
    import torch

    draw = torch.Generator().manual_seed(0)
    starts = [torch.linalg.qr(torch.randn(576, 8, generator=draw)).Q for _ in range(120)]
    factors = [parameter(start.contiguous()) for start in starts]
    for factor in factors:
        factor.grad = torch.randn(factor.shape, generator=draw)
    made = optimizer(factors)
    made.step()
    return clock(lambda: [made.step() for _ in range(100)])


def manifold_steps() -> float:
    """Return the seconds of our Riemannian AdamW."""
    from torch import nn

    try:
        from bayeslora.adapters.polar import RiemannianAdamW
    except ImportError:  # an older version
        from bayeslora.optim.riemannian import RiemannianAdamW

    return _hundred_steps(nn.Parameter, RiemannianAdamW)


def peer_steps() -> float:
    """Return the seconds of geoopt's RiemannianAdam."""
    import geoopt

    manifold = geoopt.Stiefel(canonical=False)
    return _hundred_steps(
        lambda start: geoopt.ManifoldParameter(start, manifold=manifold),
        lambda factors: geoopt.optim.RiemannianAdam(factors, lr=1e-3),
    )


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

        features, labels, layer = laplace_features()
        norm = float(features.square().sum(1).mean())
        config = Laplace(structure="kron", prior_precision=1.0)
        head: Any = _head(config, *layer.weight.shape[::-1], mean_sq_norm=norm)
        head.set_mean(layer.weight.data)
        seconds = clock(lambda: head.fit(*_rows(features, labels)))
        if not predicts:
            return seconds
        rows = _rows(features[:25])
        return clock(lambda: link_probabilities(head.predict(*rows), link="probit"))

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
        clf = BayesianClassifier(
            "smollm2-135m", progress=False, **accepted(BayesianClassifier, **WHOLE)
        )
        clf.fit(texts("train", 64), epochs=1, out=model, **accepted(clf.fit, cv=0))
        rows = texts("test", 10).texts
        lines = "".join(json.dumps({"text": text}) + "\n" for text in rows)
        Path(data).write_text(lines, encoding="utf-8")
        return process("-m", "bayeslora", "predict", model, data, "--out", out, "--quiet")()
