"""What a fit, a prediction and a score cost beside peft, transformers, netcal and torchmetrics.

Every measurement is a process of its own, the sides of a case in turn, two threads. Fits and
predictions read the first eight words of newsgroup posts with all layers and no template, as the
peers do, with adapters on the query and value projections of the upper six layers; the peers sort
by length as well. Times mean something on an idle machine alone, and move by a tenth there. Results
are kept, so that the same command goes on; delete a file to measure again.

    python benchmarks/speed.py             (make bench-speed)
    python benchmarks/speed.py --quick
    python benchmarks/speed.py --before CLONE

`--before` measures our side with the package of another clone, such as one of commit 40a1510, by
the functions of this file: options that it lacks are left out.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from verdicts import table

from bayeslora.files import atomic_file, read_json, write_json

# Runs of another version, and seconds of one that is enough.
_BEFORE, _LONG = 3, 60
ROWS, PREDICTED, WORDS, THREADS, MAX_LENGTH, ALL_LAYERS = 640, 320, 8, 2, 128, 30
WHOLE = {"depth": 1.0, "template": "{text}", "verbaliser": "none"}
Run = Callable[[], float]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        work: What is done.
        sides: By name what makes ready and returns the seconds of the work; ours come first.
        repeats: How often each side runs.
        quick: Whether it is part of `--quick`.
        usual: Whether it is run where no case is named.
    """

    work: str
    sides: Mapping[str, Run]
    repeats: int = 5
    quick: bool = True
    usual: bool = True


def main() -> None:
    """Measure what is not there yet from a machine like this one, then write the table."""
    usual = [name for name, case in CASES.items() if case.usual]
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("reports/speed"))
    parser.add_argument("--quick", action="store_true", help="one repeat of the short cases")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=usual)
    parser.add_argument("--before", type=Path, metavar="CLONE", help="another version of ours")
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        case, side = args.measure
        found = {"seconds": CASES[case].sides[side]()}
        # Of cold starts the process that is measured is a child of this one.
        who = resource.RUSAGE_CHILDREN if case.startswith("cold-") else resource.RUSAGE_SELF
        found["mib"] = resource.getrusage(who).ru_maxrss / 1024
        print(json.dumps(found))
        return
    for name in args.cases:
        case = CASES[name]
        if args.quick and not case.quick:
            continue
        file = args.out / "results" / f"{name}.json"
        known = read_json(file) if file.is_file() else {}
        if known.get("machine") != machine():
            known = {"machine": machine(), "sides": {}}
        elif all(side in known["sides"] for side in case.sides) and args.before is None:
            print(f"{name}: measured on this machine; delete {file} to measure it again")
        if args.before is not None:
            side = next(iter(case.sides))
            found = known.setdefault("before", [])
            while len(found) < min(case.repeats, _BEFORE) and not (
                found and found[-1]["seconds"] > _LONG
            ):
                found.append(measured(__file__, name, side, args.before))
                print(name, "before", found[-1], flush=True)
                write_json(file, known)
            continue
        for _ in range(1 if args.quick else case.repeats):
            for side in case.sides:
                found = known["sides"].setdefault(side, [])
                if len(found) < (1 if args.quick else case.repeats):
                    found.append(measured(__file__, name, side))
                    print(name, side, found[-1], flush=True)
                    write_json(file, known)
        write_table(args.out)
    write_table(args.out)


def measured(script: str, case: str, side: str, package: Path | None = None) -> dict[str, float]:
    """Return seconds and MiB of one side, in a process of its own with an empty cache.

    Args:
        script: Which takes `--measure`.
        case: Its name.
        side: Of the case.
        package: A clone to take ours from; None for this one.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(THREADS))
    command = [sys.executable, script, "--measure", case, side]
    surroundings = os.environ | threads | {"BAYESLORA_CACHE_GIB": "0"}
    if package is not None:
        surroundings["PYTHONPATH"] = str(package.absolute())
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=surroundings)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def machine() -> dict[str, str]:
    """Return what the numbers depend on."""
    names = ("torch", "transformers", "peft", "netcal", "torchmetrics")
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": f"{(model or [platform.processor()])[0]}, {os.cpu_count()} processors",
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def texts(split: str, count: int, words: int = WORDS) -> Any:
    """Return rows whose texts are so many words long, or shorter."""
    from dataclasses import replace

    from bayeslora.tasks.newsgroups import load_newsgroups

    pool = {"num_train": max(ROWS, count), "num_test": PREDICTED}
    rows = getattr(load_newsgroups(**pool), split)
    short = tuple(" ".join(text.split()[:words]) for text in rows.texts)
    # Rows come class by class.
    spread = np.linspace(0, len(rows) - 1, count).astype(int)
    return replace(rows, texts=short).take(spread)


def clock(work: Callable[[], object]) -> float:
    """Return the seconds that something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def accepted(function: Callable[..., object], **options: Any) -> dict[str, Any]:
    """Return the options that a function takes; an older version lacks some."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in names}


def our_fit(dtype: str, epochs: int, adapter: str = "polar") -> Run:
    """Return a fit, imports and loading included."""

    def run() -> float:
        rows = texts("train", ROWS)

        def work() -> None:
            from bayeslora import BayesianClassifier

            options = accepted(BayesianClassifier, dtype=dtype, **WHOLE)
            clf = BayesianClassifier("smollm2-135m", adapter, progress=False, **options)
            clf.fit(rows, epochs=epochs, **accepted(clf.fit, cv=0))

        return clock(work)

    return run


def whole_fit(adapter: str = "polar", **reading: Any) -> Run:
    """Return a fit as it is by default, of texts of 24 words."""

    def run() -> float:
        from bayeslora import BayesianClassifier
        from bayeslora.backbones.load import load_backbone

        rows, backbone = texts("train", ROWS, 24), load_backbone("smollm2-135m")
        clf = BayesianClassifier(backbone, adapter, progress=False, **reading)
        return clock(lambda: clf.fit(rows))

    return run


def peft_fit(dtype: str, epochs: int, upper: int = 6) -> Run:
    """Return the same of peft under transformers' Trainer with batches of similar length."""

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
    """Return predictions by a short fit, frozen layers included."""

    def run() -> float:
        from bayeslora import BayesianClassifier
        from bayeslora.backbones.load import load_backbone

        backbone = load_backbone("smollm2-135m", dtype=dtype)
        options = accepted(BayesianClassifier, **WHOLE)
        clf = BayesianClassifier(backbone, "lora", posterior, progress=False, **options)
        clf.fit(texts("train", 96), epochs=1, **accepted(clf.fit, cv=0))
        rows = texts("test", PREDICTED)
        clf.predict(rows.take(range(32)))
        kept = getattr(backbone, "prefix_states", None)
        if kept is not None:
            kept.clear()
        return clock(lambda: clf.predict(rows))

    return run


def plain_prediction(dtype: str) -> Run:
    """Return predictions by transformers alone, sorted by length, in batches of 32."""

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


def head_fit(num_classes: int) -> Run:
    """Return the closed-form fit of a variational last layer to 640 rows of 576 features."""

    def run() -> float:
        import torch

        from bayeslora import VBLL
        from bayeslora.posteriors.vbll import VBLLHead

        try:
            from bayeslora.posteriors.vbll_cost import settled
        except ImportError:  # an older version, with dense covariances alone
            settled = None

        draw = torch.Generator().manual_seed(num_classes)
        labels = torch.arange(ROWS) % num_classes
        centres = 0.12 * torch.randn(num_classes, 576, generator=draw)
        scale = torch.logspace(0, -1.5, 576)
        features = centres[labels] + torch.randn(ROWS, 576, generator=draw)
        features = features * scale / scale.square().sum().sqrt()
        config: Any = VBLL(polish_mean="refit")
        config = config if settled is None else settled(config, num_classes, 576, ROWS)
        head = VBLLHead(config, 576, num_classes)
        return clock(lambda: head.fit(features, labels))

    return run


def drawn_predictions(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return overconfident probabilities [N, 5] and labels [N]."""
    draw = np.random.default_rng(0)
    logits = draw.normal(scale=2, size=(count, 5))
    true, stated = (np.exp(scale * logits) for scale in (1.0, 1.3))
    true, stated = (one / one.sum(1, keepdims=True) for one in (true, stated))
    labels = (true.cumsum(1) < draw.random((count, 1))).sum(1).clip(0, 4)
    return stated, labels


def all_scores(count: int) -> Run:
    """Return all scores of so many rows, with intervals."""

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


def second_fit(adapter: str = "none", *, kept: bool) -> Run:
    """Return another fit to rows that were fitted before, with and without the cache."""

    def run() -> float:
        from bayeslora import BayesianClassifier

        rows = texts("train", ROWS)
        with tempfile.TemporaryDirectory() as folder:
            os.environ["BAYESLORA_CACHE_GIB"] = "2" if kept else "0"
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


def manifold_steps() -> float:
    """Return 100 steps of 120 orthonormal factors of 576 x 8, those of 60 adapted layers."""
    import torch

    from bayeslora.optim.riemannian import RiemannianAdamW

    draw = torch.Generator().manual_seed(0)
    starts = [torch.linalg.qr(torch.randn(576, 8, generator=draw)).Q for _ in range(120)]
    factors = [torch.nn.Parameter(start.contiguous()) for start in starts]
    for factor in factors:
        factor.grad = torch.randn(factor.shape, generator=draw)
    optimizer = RiemannianAdamW(factors)
    optimizer.step()
    return clock(lambda: [optimizer.step() for _ in range(100)])


def laplace_features() -> tuple[Any, Any, Any]:
    """Return [N, d] features, labels [N] and a layer fitted to them, for last-layer Laplace."""
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
    """Return a Kronecker-factored fit of a last layer, or 25 predictions of it by probit."""

    def run() -> float:
        from bayeslora import Laplace
        from bayeslora.links import link_probabilities
        from bayeslora.posteriors.laplace import LaplaceHead

        features, labels, layer = laplace_features()
        norm = float(features.square().sum(1).mean())
        config = Laplace(structure="kron", prior_precision=1.0)
        head = LaplaceHead(config, *layer.weight.shape[::-1], mean_sq_norm=norm)
        head.point.weight.data.copy_(layer.weight.data)
        seconds = clock(lambda: head.fit(features, labels))
        if not predicts:
            return seconds
        return clock(lambda: link_probabilities(head.predict(features[:25]), link="probit"))

    return run


def peer_laplace(*, predicts: bool) -> Run:
    """Return the same of laplace-torch."""

    def run() -> float:
        from laplace import Laplace
        from torch import nn
        from torch.utils.data import DataLoader, TensorDataset

        features, labels, layer = laplace_features()
        found = Laplace(
            nn.Sequential(nn.Identity(), layer),
            "classification",
            subset_of_weights="last_layer",
            hessian_structure="kron",
            prior_precision=1.0,
        )
        rows = DataLoader(TensorDataset(features, labels), batch_size=256)
        seconds = clock(lambda: found.fit(rows))
        return clock(lambda: found(features[:25], link_approx="probit")) if predicts else seconds

    return run


def process(*command: str) -> Run:
    """Return a command, from its start to its end."""
    return lambda: clock(
        lambda: subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    )


def cold_evaluation() -> float:
    """Return `bayeslora evaluate` on 200 rows."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.csv"
        lines = [f"{'ab'[n % 2]},{0.3 + 0.05 * (n % 7)},{0.7 - 0.05 * (n % 7)}" for n in range(200)]
        file.write_text("\n".join(["label,prob_a,prob_b", *lines]) + "\n", encoding="utf-8")
        return process("-m", "bayeslora", "evaluate", str(file))()


def cold_prediction() -> float:
    """Return `bayeslora predict` on 10 rows."""
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
        repeats=3,
        quick=False,
    ),
    "fit-5-epochs-bfloat16": Case(
        "fit, 5 epochs, bfloat16",
        {"PoLAR-VBLL": our_fit("bfloat16", 5), "peft": peft_fit("bfloat16", 5)},
        repeats=3,
        quick=False,
    ),
    "fit-all-layers-5-epochs": Case(
        "fit, 5 epochs, float32, adapters on all layers",
        {
            "PoLAR-VBLL": our_fit("float32", 5, "polar:num_layers=30"),
            "peft": peft_fit("float32", 5, ALL_LAYERS),
        },
        repeats=1,
        quick=False,
        usual=False,
    ),
    "fit-all-layers": Case(
        "fit, 1 epoch, bfloat16, adapters on all layers",
        {
            "PoLAR-VBLL": our_fit("bfloat16", 1, "polar:num_layers=30"),
            "peft": peft_fit("bfloat16", 1, ALL_LAYERS),
        },
        quick=False,
    ),
    "reading": Case(
        "fit as by default, 24 words, loading left out",
        {
            "default reading": whole_fit(),
            "all layers, raw": whole_fit(**WHOLE),
            "last layer alone": whole_fit("none"),
        },
        repeats=3,
        quick=False,
        usual=False,
    ),
    "second-fit": Case(
        "second fit of the same rows, last layer alone",
        {"states from disk": second_fit(kept=True), "pass again": second_fit(kept=False)},
    ),
    "second-adapter": Case(
        "fit of another adapter to the same rows, 1 epoch",
        {
            "states from disk": second_fit("lora", kept=True),
            "pass again": second_fit("lora", kept=False),
        },
        repeats=3,
        quick=False,
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
        for count in (6, 20, 77, 400)
    },
    "manifold-steps": Case(
        "100 steps of 120 orthonormal factors of 576 × 8", {"PoLAR": manifold_steps}
    ),
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


def write_table(out: Path) -> None:
    """Write `summary.md`."""
    rows, machines = [], {}
    for name, case in CASES.items():
        file = out / "results" / f"{name}.json"
        if not file.is_file():
            continue
        known = read_json(file)
        machines[", ".join(f"{key} {value}" for key, value in known["machine"].items())] = None
        ours = ""
        earlier = [one["seconds"] for one in known.get("before", [])]
        before = f"{median(earlier):.3g}" if earlier else ""
        for side, found in known["sides"].items():
            seconds = [one["seconds"] for one in found]
            middle = median(seconds)
            ratio = "" if not ours else f"{middle / float(ours):.2f}"
            ours = ours or str(middle)
            rows.append(
                (
                    case.work,
                    side,
                    f"{middle:.3g}",
                    f"{min(seconds):.3g} to {max(seconds):.3g} ({len(seconds)})",
                    ratio,
                    f"{median(one['mib'] for one in found):.0f}",
                    before,
                )
            )
            before = ""
    head = ("work", "side", "median s", "range (runs)", "× ours", "MiB", "before, s")
    lines = [
        "# Speed",
        "Seconds of the work on both sides, each run a process of its own, in turn. Fits are of "
        f"{ROWS} texts of {WORDS} words, imports and loading included. Made by `make "
        "bench-speed`; the default fit by `python benchmarks/speed.py --cases reading`. "
        "*Before*: the package of commit 40a1510 (`--before`), where all layers of a raw text were "
        "read as well.",
        table(head, rows),
        "Measured on: " + "; ".join(machines) + ".",
    ]
    with atomic_file(out / "summary.md") as aside:
        aside.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
