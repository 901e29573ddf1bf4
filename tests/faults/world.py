"""Small models, data and predictions that are copied for every case.

Building them also runs each verb once in this process, so forked children have everything
imported.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # `tiny` and `foreign_models`

import foreign_models
import tiny

FIT = (
    *("fit", "train.jsonl", "--validation", "valid.jsonl", "--backbone", "bert"),
    *("--epochs", 2, "--batch-size", 6, "--quiet", *tiny.QUICK_VBLL_ARGS),
)
LOG = "samples_toy_2026-01-31T10-20-30.123456.jsonl"
"""Name of a sample log of lm-evaluation-harness."""
PREDICT = ("--num-samples", 20, "--quiet")


def build(folder: Path) -> Path:
    """Write the world into a directory that does not exist yet; return it."""
    folder.mkdir(parents=True)
    with contextlib.redirect_stderr(io.StringIO()):
        _fill(folder)
    return folder


def _fill(folder: Path) -> None:
    tiny.tiny_bert(folder / "bert")
    tiny.tiny_llama(folder / "llama")
    tiny.tiny_classifier(folder / "classifier")
    peft, _ = foreign_models.saved_peft("bert", folder / "lora")
    base = json.loads((peft / "adapter_config.json").read_text(encoding="utf-8"))
    base["base_model_name_or_path"] = "lora/base"
    (peft / "adapter_config.json").write_text(json.dumps(base), encoding="utf-8")
    for name, rows, seed in (("train", 12, 1), ("valid", 9, 2), ("test", 12, 3)):
        _rows(folder / f"{name}.jsonl", tiny.toy_rows(rows, seed))
    far = [{"id": f"far-{n}", "text": f"red green blue {n}"} for n in range(8)]
    _rows(folder / "far.jsonl", far)
    _other_formats(folder)
    here = Path.cwd()
    os.chdir(folder)
    try:
        _use()
    finally:
        os.chdir(here)


def copy(world: Path, room: Path) -> Path:
    """Copy the world into a room, with a directory for temporary files; return the room."""
    shutil.copytree(world, room, dirs_exist_ok=True, symlinks=True)
    (room / "tmp").mkdir(exist_ok=True)
    return room


def forget_hashes(model: Path) -> None:
    """Remove the hashes from a model directory, as if an older version had written it.

    A changed file is then read instead of refused by its hash.
    """
    path = model / "bayeslora.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    for key in ("files", "sha256"):
        record.pop(key, None)
    path.write_text(json.dumps(record), encoding="utf-8")


def _use() -> None:
    from bayeslora.cli import main

    def verb(*words: object) -> None:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = main([str(word) for word in words])
        if code:
            raise RuntimeError(f"{words}: {code}\n{output.getvalue()}")

    verb(*FIT, "--out", "model")
    shutil.copytree("model", "old-model")
    forget_hashes(Path("old-model"))
    decoder = ("--backbone", "llama", "--posterior", "map", "--epochs", 1, "--quiet")
    verb("fit", "train.jsonl", *decoder, "--out", "decoder")
    verb("calibrate", "classifier", "train.jsonl", "--out", "laplace", "--quiet")
    verb("calibrate", "lora/peft", "train.jsonl", "--out", "adapted", "--quiet")
    for name in ("valid", "test", "far"):
        verb("predict", "model", f"{name}.jsonl", "--out", f"{name}.parquet", *PREDICT)
    verb("predict", "laplace", "test.jsonl", "--out", "other.parquet", *PREDICT)
    for suffix in ("csv", "jsonl"):
        verb("convert", "test.parquet", "--out", f"predictions.{suffix}")
    verb("recalibrate", "--fit", "valid.parquet", "--apply", "test.parquet", "--out", "r.parquet")
    verb("conformal", "--fit", "valid.parquet", "--apply", "test.parquet", "--out", "s.parquet")
    verb("evaluate", "test.parquet", "--ood", "far=far.parquet")
    verb("compare", "other.parquet", "test.parquet", "--out", "table")
    verb("export", "model", "--out", "peft")
    verb("export", "decoder", "--out", "merged", "--format", "merged")
    verb("export", "model", "--out", "all.safetensors", "--format", "safetensors")
    verb("report", "test.parquet", "other.parquet", "--out", "report", "--spectrum", "model")
    verb("info", "model", "--spectrum", "--figure", "spectrum.svg")
    for made in ("r.parquet", "s.parquet", "all.safetensors", "spectrum.svg"):
        Path(made).unlink()
    shutil.rmtree("peft")


def _other_formats(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = tiny.toy_rows(12, 3)
    for name, delimiter in (("test.csv", ","), ("test.tsv", "\t")):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), folder / "data.parquet")
    options = ["a dog", "a cat", "rain"]
    lines = [
        {
            "doc_id": number,
            "doc": {"question": f"What is {number}?", "choices": options},
            "target": str(number % 3),
            "arguments": {
                f"gen_args_{k}": {"arg_0": "Q", "arg_1": f" {option}"}
                for k, option in enumerate(options)
            },
            "resps": [[[str(-1.0 - (number + k) % 4), "False"]] for k in range(3)],
            "filtered_resps": [[str(-1.0 - (number + k) % 4), "False"] for k in range(3)],
            "doc_hash": "0" * 64,
            "acc": 1.0,
            "filter": "none",
            "metrics": ["acc"],
        }
        for number in range(4)
    ]
    _rows(folder / LOG, lines)


def _rows(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
