"""Malformed YAML files and model cards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from . import mutate, world
from .cases import Case, Finding
from .rules import obeyed

_YAML = b"""train: train.jsonl
backbone: bert
posterior: map
adapter:
  name: polar
  r: 2
  lr: 0.01
batch_size: 4
seed: 3
max_length: 16
quiet: true
out: out
"""
_LAUGHS = "\n".join(
    ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
)
_YAMLS = (
    "&a [*a]",
    "train: &a\n  b: *a",
    _LAUGHS,
    "train: !!python/object/apply:os.system ['touch marker']",
    "train: !!python/name:os.system",
    "train: !!binary aGVsbG8=",
    "? [a, b]\n: c",
    "seed: 1\nseed: 2",
    "seed: 0o17",
    "seed: 1:30:00",
    "seed: 2026-01-01",
    "seed: yes",
    "seed: 1e3",
    "seed: .nan",
    "seed: -.inf",
    "seed: " + "9" * 5000,
    "seed: [1]",
    "seed: {a: 1}",
    "seed: !!int x",
    "batch_size: 1.5",
    "batch_size: true",
    "batch-size: 4\nbatch_size: 5",
    "quiet: maybe",
    "quiet: 'true'",
    "adapter: [polar]",
    "adapter: {name: [polar]}",
    "adapter: {r: 2}",
    "adapter: {name: polar, r: {a: 1}}",
    "adapter: {name: polar, ? {a: 1} : 2}",
    "adapter: {name: polar, 3: 2}",
    "posterior: {name: ensemble, num_members: 1000000000}",
    "backbone: 5",
    "out: 3",
    "train: [train.jsonl]",
    "config: other.yaml",
    "help: true",
    "--- a\n--- b",
    "%YAML 9.9\n---\nseed: 1",
    "seed: \x00",
    "\t- tab",
    "seed: \x1b[2J",
    "seed: \u202e5",
    "[" * 100_000,
    "{a: " * 100_000,
    "- " * 100_000,
    "<<: {seed: 3}",
    "<<: 3",
    "",
    "null",
    "[]",
    "5",
)
_CARD = b"""---
license: apache-2.0
model-index:
- name: a
  results: []
tags: [x]
---
# A model

Text.
"""


def cases(source: Path, scenario: str) -> Iterator[Case]:
    """Return a case for each YAML file and model card."""
    fit = ("fit", "--config", "bad.yaml", "--epochs", 1)
    report = ("report", "test.parquet", "--out", "out")
    card = (*report, "--model-card", "card.md")
    chance = random.Random(4)
    changed = [mutate.bytes_of(_YAML, chance) for _ in range(60)]
    cards = [mutate.bytes_of(_CARD, chance) for _ in range(30)]
    alone = [("alone", _YAML + text.encode()) for text in _YAMLS]
    whole = [("whole", text.encode()) for text in _YAMLS]
    kinds = (
        ("YAML", "bad.yaml", fit, [*alone, *whole, *changed]),
        ("model card", "card.md", card, cards),
    )
    for group, file, argv, contents in kinds:
        for number, (how, content) in enumerate(contents):
            run = partial(_case, source, file, content, argv)
            yield Case(scenario, group, f"{how} {number:03d}", run)


def _case(source: Path, file: str, content: bytes, argv: tuple[object, ...], room: Path) -> Finding:
    world.copy(source, room)
    (room / file).write_bytes(content)
    outcome, problems = obeyed(argv, room, may_write=("out", "card.md"))
    if (room / "marker").exists():
        problems.append(("ran code", "a marker was made"))
    ended = "refused" if outcome.code == 2 else "accepted" if outcome.code == 0 else "failed"
    command = f"{' '.join(map(str, ('bayeslora', *argv)))} with {content!r:.200}"
    return Finding(problems, ended, command if problems else "")
