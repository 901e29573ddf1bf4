"""Directories made to harm whoever opens them: nothing runs, hangs or leads outside."""

from __future__ import annotations

import json
import os
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from . import world
from .cases import Case, Finding, Rooms
from .crash import plan, writes
from .crash_points import Recorder
from .process import run
from .rules import broken
from .trees import changes

SCENARIO = "hostile directories"
_MARKER = "marker"
_CODE = "open({!r}, 'w').close()\n"
Attack = Callable[[Path, Path], None]
"""Called with a directory about to be opened, and the path that its payload creates."""


class _Payload:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.marker, "w")


def _pickled(name: str, *, alone: bool) -> Attack:
    """Return an attack that adds a pickle to a directory, beside its tensors or replacing them."""

    def attack(folder: Path, marker: Path) -> None:
        if alone:
            for path in folder.glob("*.safetensors"):
                path.unlink()
        (folder / name).write_bytes(pickle.dumps(_Payload(marker)))

    return attack


def _zipped(folder: Path, marker: Path) -> None:
    """Replace weights by a checkpoint in torch's own format that contains a payload."""
    import torch

    for path in folder.glob("*.safetensors"):
        torch.save({"weight": _Payload(marker)}, path.with_suffix(".bin"))
        torch.save({"weight": _Payload(marker)}, path)
    torch.save({"weight": _Payload(marker)}, folder / "pytorch_model.bin")


def _with(name: str, **changes: Any) -> Attack:
    """Return an attack that changes a JSON file, if it exists, and adds code beside it."""

    def attack(folder: Path, marker: Path) -> None:
        for code in ("evil.py", "modeling_evil.py", "__init__.py", "custom_generate/generate.py"):
            (folder / code).parent.mkdir(exist_ok=True)
            (folder / code).write_text(_CODE.format(str(marker)), encoding="utf-8")
        path = folder / name
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps({**content, **changes}), encoding="utf-8")

    return attack


def _links(target: str) -> Attack:
    """Return an attack that replaces files by links to a path outside."""

    def attack(folder: Path, _: Path) -> None:
        for path in sorted(folder.iterdir()):
            if path.is_file():
                path.unlink()
                path.symlink_to(target)

    return attack


def _replaced(pattern: str, make: Callable[[Path], object]) -> Attack:
    """Return an attack that replaces matching files by something else."""

    def attack(folder: Path, _: Path) -> None:
        for path in list(folder.glob(pattern)):
            path.unlink()
            make(path)

    return attack


def _huge(path: Path) -> None:
    """Create a sparse file that is larger than the memory; tensors are mapped."""
    with path.open("wb") as file:
        file.write((2**40 - 8).to_bytes(8, "little"))
        file.truncate(1 << (32 if path.suffix == ".safetensors" else 36))


def _shards(folder: Path, marker: Path) -> None:
    """Name shards of weights outside the directory; one of them is a pickle."""
    (folder.parent / "outside.bin").write_bytes(pickle.dumps(_Payload(marker)))
    for path in folder.glob("*.safetensors"):
        path.unlink()
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        names = {"a": "../outside.bin", "b": "/etc/passwd", "c": "../../../../etc/hostname"}
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": names}), "utf-8")


_REGEX = "(a+)+$"
_MAP = dict.fromkeys(
    ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoTokenizer"),
    "modeling_evil.Evil",
)
_LAYERS = ".*" + "(x+x+)+y"
ATTACKS: dict[str, Attack] = {
    **{
        f"{name}, {'alone' if alone else 'beside'}": _pickled(name, alone=alone)
        for name in ("pytorch_model.bin", "adapter_model.bin", "model.pt", "training_args.bin")
        for alone in (True, False)
    },
    "tokenizer pickle": _pickled("vocab.pkl", alone=False),
    "torch files": _zipped,
    "config: auto_map": _with("config.json", auto_map=_MAP, model_type="evil"),
    "config: auto_map of a known type": _with("config.json", auto_map=_MAP),
    "config: custom_generate": _with("config.json", custom_generate="custom_generate"),
    "config: unknown type": _with("config.json", model_type="../evil"),
    "config: quantised": _with("config.json", quantization_config={"quant_method": "bitsandbytes"}),
    "config: quantised by a stranger": _with(
        "config.json", quantization_config={"quant_method": "evil"}
    ),
    "config: a list": _with("config.json", hidden_size=[16], num_hidden_layers="3"),
    "config: huge": _with("config.json", hidden_size=10**9, vocab_size=10**12),
    "config: many layers": _with("config.json", num_hidden_layers=10**9),
    "config: attention of the hub": _with("config.json", _attn_implementation="evil/kernel"),
    "config: dtype": _with("config.json", dtype="os.system", torch_dtype="float8_e4m3fn"),
    "config: activation": _with("config.json", hidden_act="__import__('os')"),
    "tokenizer: auto_map": _with(
        "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}
    ),
    "tokenizer: class": _with("tokenizer_config.json", tokenizer_class="evil.Evil"),
    "tokenizer: file": _with(
        "tokenizer_config.json", tokenizer_file="/etc/passwd", vocab_file="/etc/passwd"
    ),
    "tokenizer: template": _with(
        "tokenizer_config.json", chat_template="{{ cycler.__init__.__globals__.os.system('x') }}"
    ),
    "PEFT: parent_library": _with(
        "adapter_config.json", auto_mapping={"base_model_class": "Evil", "parent_library": "evil"}
    ),
    "PEFT: regex": _with("adapter_config.json", target_modules=_LAYERS, exclude_modules=_REGEX),
    "PEFT: regex of layers": _with(
        "adapter_config.json", target_modules="(.*)*(.*)*(.*)*(.*)*(.*)*!"
    ),
    "PEFT: base elsewhere": _with("adapter_config.json", base_model_name_or_path="/etc"),
    "PEFT: base is itself": _with("adapter_config.json", base_model_name_or_path="lora/peft"),
    "PEFT: base on the hub": _with("adapter_config.json", base_model_name_or_path="evil/evil"),
    "PEFT: kind": _with("adapter_config.json", peft_type="../../evil"),
    "PEFT: rank": _with("adapter_config.json", r=10**9, rank_pattern={_REGEX: 10**9}),
    "PEFT: EVA": _with("adapter_config.json", init_lora_weights="eva", eva_config={"rho": 1}),
    "record: backbone elsewhere": _with("bayeslora.json", backbone={"name": "/etc"}),
    "record: posterior of a stranger": _with("bayeslora.json", posterior={"name": "evil.Evil"}),
    "record: columns": _with(
        "bayeslora.json", columns={"text": "../x", "label": "\x1b[2J", "pair": None}
    ),
    "links to /etc/passwd": _links("/etc/passwd"),
    "links to /dev/zero": _links("/dev/zero"),
    "links to themselves": _links("."),
    "links to nothing": _links("/nowhere/at/all"),
    "FIFOs for JSON": _replaced("*.json", lambda path: os.mkfifo(path)),
    "FIFOs for tensors": _replaced("*.safetensors", lambda path: os.mkfifo(path)),
    "directories for JSON": _replaced("*.json", lambda path: path.mkdir()),
    "directories for tensors": _replaced("*.safetensors", lambda path: path.mkdir()),
    "unreadable files": _replaced("*.json", lambda path: path.touch(mode=0o000)),
    "sparse tensors of 4 GiB": _replaced("*.safetensors", _huge),
    "sparse JSON of 64 GiB": _replaced("*.json", _huge),
    "shards elsewhere": _shards,
}
_NEEDS = {
    "config": "config.json",
    "tokenizer": "tokenizer_config.json",
    "PEFT": "adapter_config.json",
    "record": "bayeslora.json",
}
"""The file that an attack whose name starts with this word changes."""
_OUT = ("--out", "out")
_DIRECTORIES: dict[str, tuple[tuple[object, ...], ...]] = {
    "model": (
        ("predict", "model", "test.jsonl", "--out", "out.parquet", *world.PREDICT),
        ("info", "model"),
        ("info", "model", "--spectrum"),
        ("export", "model", *_OUT),
        ("export", "model", *_OUT, "--format", "merged"),
        ("calibrate", "model", "train.jsonl", *_OUT, "--quiet"),
        ("report", "test.parquet", *_OUT, "--spectrum", "model"),
    ),
    "classifier": (
        ("calibrate", "classifier", "train.jsonl", *_OUT, "--quiet"),
        ("predict", "laplace", "test.jsonl", "--out", "out.parquet", *world.PREDICT),
        ("info", "classifier"),
    ),
    "bert": (
        (
            *world.FIT[:4],
            "--backbone",
            "bert",
            "--posterior",
            "map",
            "--epochs",
            1,
            "--quiet",
            *_OUT,
        ),
        ("predict", "model", "test.jsonl", "--out", "out.parquet", *world.PREDICT),
    ),
    "lora/peft": (
        ("calibrate", "lora/peft", "train.jsonl", *_OUT, "--quiet"),
        ("predict", "adapted", "test.jsonl", "--out", "out.parquet", *world.PREDICT),
        ("info", "lora/peft", "--spectrum"),
    ),
    "lora/base": (("calibrate", "lora/peft", "train.jsonl", *_OUT, "--quiet"),),
}
_FILES: dict[str, Callable[[Path], object]] = {
    "a FIFO": lambda path: os.mkfifo(path),
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to /dev/stdin": lambda path: path.symlink_to("/dev/stdin"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to /proc/self/mem": lambda path: path.symlink_to("/proc/self/mem"),
    "a directory": lambda path: path.mkdir(),
    "a sparse file of 64 GiB": _huge,
    "unreadable": lambda path: path.touch(mode=0o000),
}
_FILE_VERBS: dict[str, tuple[tuple[object, ...], ...]] = {
    "data": (
        ("predict", "model", "{}", "--out", "out.parquet", *world.PREDICT),
        ("fit", "{}", "--backbone", "bert", "--epochs", 1, "--quiet", *_OUT),
        ("calibrate", "classifier", "{}", *_OUT, "--quiet"),
    ),
    "predictions": (
        ("evaluate", "{}"),
        ("convert", "{}", "--out", "out.parquet"),
        ("compare", "{}", "other.parquet"),
        ("report", "{}", *_OUT),
        ("recalibrate", "--fit", "{}", "--apply", "test.parquet", "--out", "out.parquet"),
        ("conformal", "--fit", "valid.parquet", "--apply", "{}", "--out", "out.parquet"),
    ),
    "text": (
        ("fit", "--config", "{}"),
        ("report", "test.parquet", *_OUT, "--model-card", "{}"),
    ),
}
_SUFFIXES = {
    "data": (".jsonl", ".json", ".csv", ".parquet"),
    "predictions": (".jsonl", ".csv", ".parquet"),
    "text": (".yaml",),
}


def cases(source: Path, rooms: Rooms, *, sample: bool) -> Iterator[Case]:
    """Return a case for each attack and each command that meets it."""
    pool = [*_on_directories(source), *_on_files(source), *_on_checkpoints(source, rooms)]
    yield from random.Random(6).sample(pool, 10) if sample else pool


def _on_directories(source: Path) -> Iterator[Case]:
    for folder, commands in _DIRECTORIES.items():
        for attack, change in ATTACKS.items():
            needed = _NEEDS.get(attack.partition(":")[0])
            if needed is not None and not (source / folder / needed).exists():
                continue
            for argv in commands:
                name = f"{attack}: {' '.join(map(str, argv))}"
                yield Case(SCENARIO, folder, name, partial(_opened, source, folder, change, argv))


def _on_files(source: Path) -> Iterator[Case]:
    for kind, commands in _FILE_VERBS.items():
        for suffix in _SUFFIXES[kind]:
            for what, make in _FILES.items():
                for argv in commands:
                    words = tuple(str(word).replace("{}", f"odd{suffix}") for word in argv)
                    name = f"{what}: {' '.join(words)}"
                    run_it = partial(_read, source, f"odd{suffix}", make, words)
                    yield Case(SCENARIO, f"{kind} file", name, run_it)


def _on_checkpoints(source: Path, rooms: Rooms) -> Iterator[Case]:
    """Return cases that resume a fit whose checkpoints have a payload in each pickle."""
    fit = next(write for write in writes() if write.name == "fit")
    made = plan(fit, source, rooms)
    last = next(n for n, point in enumerate(made.points, 1) if "bayeslora.json" in point)

    def resumed(room: Path) -> Finding:
        made.room(room)
        fit.run(room, Recorder(room, last).install)
        for path in (room / fit.target).rglob("*"):
            if path.suffix in {".pt", ".pth", ".bin"}:
                path.write_bytes(pickle.dumps(_Payload(room / _MARKER)))
        return _judged(room, fit.argv)

    yield Case(SCENARIO, "interrupted fit", "pickles in its checkpoints", resumed)


def _opened(
    source: Path, folder: str, attack: Attack, argv: tuple[object, ...], room: Path
) -> Finding:
    world.copy(source, room)
    if folder == "model":
        world.forget_hashes(room / folder)
    attack(room / folder, room / _MARKER)
    return _judged(room, argv)


def _read(
    source: Path, file: str, make: Callable[[Path], object], argv: tuple[object, ...], room: Path
) -> Finding:
    world.copy(source, room)
    make(room / file)
    return _judged(room, argv)


def _judged(room: Path, argv: tuple[object, ...]) -> Finding:
    before = _light(room)
    outcome = run(argv, room, lambda: sys.path.insert(0, str(room)))
    problems = broken(outcome)
    if (room / _MARKER).exists():
        problems.append(("ran code", "a marker was made"))
    changed = [name for name in changes(before, _light(room)) if name[1:] != _MARKER]
    if outcome.code == 2 and changed:
        problems.append(("wrote", f"{changed[:5]}"))
    ended = "refused" if outcome.code == 2 else "accepted" if outcome.code == 0 else "failed"
    command = " ".join(map(str, ("bayeslora", *argv)))
    return Finding(problems, ended, command if problems else "")


def _light(room: Path) -> dict[str, tuple[str, str]]:
    """Return the names and sizes in a room: reading hostile files would hang here as well."""
    return {
        str(path.relative_to(room)): (str(path.lstat().st_mode), str(path.lstat().st_size))
        for path in room.rglob("*")
    }
