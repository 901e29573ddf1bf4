"""Does `bayeslora predict` keep its promises on a million rows?

A tiny classifier is fitted, and short texts are predicted by the command line in a process of its
own: few of them, then many, to compare the most memory that each process held. Beside that, the
many are predicted by a process that is killed (SIGKILL) at random points and started again; its
file must be the same in every byte.

    python -m benchmarks.million_rows
    python -m benchmarks.million_rows --rows 50000 --few 5000
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bayeslora.classifier import BayesianClassifier
from bayeslora.data.examples import PIECE
from bayeslora.io import atomic_file
from bayeslora.predictions.parts import PredictionParts
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.results import Results

LIMIT = 1.10
"""Maximum memory for many rows, as a multiple of that for few."""

KEY = ("rows", "few")
KILLS, DRAWS = 2, 100
"""Number of kills, and draws of the logits per row."""

_TOPICS = {
    "animals": ("cat", "dog", "horse", "bird", "fish", "barks", "purrs", "swims"),
    "food": ("bread", "soup", "cheese", "apple", "rice", "tasty", "salty", "fresh"),
}
_FILLERS = ("the", "a", "is", "was", "and", "in", "on", "today", "here", "very")
_WORDS = [*_FILLERS, *(word for words in _TOPICS.values() for word in words)]


@dataclass(frozen=True)
class Run:
    """One prediction by the command line.

    Attributes:
        seconds: Duration.
        peak_mib: Peak resident memory of the process.
        sha256: Hash of the predictions file.
        kills: Number of times it was killed.
    """

    seconds: float
    peak_mib: float
    sha256: str
    kills: int = 0


def main() -> None:
    """Predict few rows, many rows, and many rows with kills; write the numbers and the page."""
    parser = study_parser(__doc__, "reports/million-rows", data_dir=False, threads=None)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--few", type=int, default=10_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="million-rows-") as name:
        result = measure(Path(name), rows=args.rows, few=args.few)
    results = Results(args.out, KEY)
    results.append(result)
    results.sort()
    write_summary(args.out)
    if not (result["equal"] and result["memory_ratio"] <= LIMIT):
        sys.exit(1)


def measure(folder: Path, *, rows: int, few: int) -> dict[str, Any]:
    """Run all predictions in `folder` and return the measurements."""
    model = fit_tiny(folder)
    small = write_texts(folder / "few.jsonl", few)
    large = write_texts(folder / "many.jsonl", rows)
    pieces = -(-rows // PIECE)
    points = (1 + np.random.default_rng(0).permutation(pieces - 1)[:KILLS]).tolist()
    few_run = predict(model, small, folder / "few.parquet")
    with ThreadPoolExecutor() as pool:  # threads only wait for processes
        many = pool.submit(predict, model, large, folder / "many.parquet")
        killed = pool.submit(predict, model, large, folder / "killed.parquet", kill_at=points)
    runs = {"few": few_run, "many": many.result(), "killed": killed.result()}
    return {
        "rows": rows,
        "few": few,
        "piece": PIECE,
        "data_bytes": large.stat().st_size,
        "file_bytes": (folder / "many.parquet").stat().st_size,
        "memory_ratio": round(runs["many"].peak_mib / runs["few"].peak_mib, 3),
        "equal": runs["many"].sha256 == runs["killed"].sha256,
        "runs": {name: vars(run) for name, run in runs.items()},
    }


def fit_tiny(folder: Path) -> Path:
    """Fit a classifier on a decoder with 2 layers and width 16, and return its directory."""
    names = ["[PAD]", "[UNK]", "[SEP]", *_WORDS]
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[SEP]"}
    known = {name: place for place, name in enumerate(names)}
    words = Tokenizer(WordLevel(known, unk_token=special["unk_token"]))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **special)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        vocab_size=len(names),
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "backbone")
    tokenizer.save_pretrained(folder / "backbone")
    clf = BayesianClassifier(folder / "backbone", "polar", "vbll", progress=False)
    clf.fit(write_texts(folder / "train.jsonl", 200, labelled=True, seed=1), epochs=2, cv=0)
    clf.save_pretrained(folder / "model")
    return folder / "model"


def write_texts(path: Path, rows: int, *, labelled: bool = False, seed: int = 0) -> Path:
    """Write JSON lines with an id and a text of 3 to 8 words, mostly on one topic."""
    generator = np.random.default_rng(seed)
    topics = sorted(_TOPICS)
    with path.open("w", encoding="utf-8") as out:
        for row in range(rows):
            topic = topics[row % len(topics)]
            length = generator.integers(1, 7)
            words = [*generator.choice(_TOPICS[topic], 2), *generator.choice(_WORDS, length)]
            record = {"id": f"row-{row}", "text": " ".join(words)}
            print(json.dumps(record | ({"label": topic} if labelled else {})), file=out)
    return path


def predict(model: Path, data: Path, out: Path, *, kill_at: Sequence[int] = ()) -> Run:
    """Run the command until it has written its file.

    Args:
        model: Model directory.
        data: File of the rows.
        out: Predictions file to write.
        kill_at: Numbers of finished pieces at which to kill the process.
    """
    verb = [sys.executable, "-m", "bayeslora", "predict", "--quiet", "--num-samples", DRAWS]
    command = [*verb, model, data, "--out", out]
    start = time.monotonic()
    peak = 0.0
    parts = PredictionParts(out)
    for count in [*sorted(kill_at), None]:
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
        while count is not None and parts.num_finished() < count and process.poll() is None:
            time.sleep(0.01)
        if count is not None:
            process.send_signal(signal.SIGKILL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != (0 if count is None else -signal.SIGKILL):
            raise RuntimeError(f"{command} ended with {process.returncode}")
        unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
        peak = max(peak, usage.ru_maxrss / unit)
    seconds = round(time.monotonic() - start, 1)
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    return Run(seconds, round(peak, 1), digest, len(kill_at))


def write_summary(out: Path) -> None:
    """Write the page of the measurement stored last."""
    result = Results(out, KEY).rows()[-1]
    what = {
        "few": f"{result['few']:,} rows",
        "many": f"{result['rows']:,} rows",
        "killed": f"{result['rows']:,} rows, killed {result['runs']['killed']['kills']} times",
    }
    lines = [
        "# Predicting a million rows",
        "",
        "`bayeslora predict` on unlabelled texts of 3 to 8 words, two classes, with a "
        "decoder of 2 layers and width 16, "
        f"{result['piece']:,} rows at a time. "
        "Peak resident memory of the process, Python and its libraries included. Made "
        "by `python -m benchmarks.million_rows`.",
        "",
        "| predicted | seconds | peak memory, MiB | SHA-256 of the file |",
        "|---|---|---|---|",
        *(
            f"| {what[name]} | {run['seconds']:,.0f} | {run['peak_mib']:,.0f} "
            f"| {run['sha256'][:16]}… |"
            for name, run in result["runs"].items()
        ),
        "",
        f"Memory for {result['rows']:,} rows is {result['memory_ratio']:.2f} times that for "
        f"{result['few']:,} (allowed: {LIMIT:.2f}). The file of the run that was killed is "
        f"{'the same in every byte' if result['equal'] else 'NOT the same'}; it holds "
        f"{result['file_bytes'] / 2**20:.0f} MiB, the texts "
        f"{result['data_bytes'] / 2**20:.0f} MiB.",
    ]
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
