"""A causal language model for benchmarks, with texts to learn and texts to remember.

Backbones have no vocabulary logits, but the model in their directory does: its output layer is the
embedding.

Texts to learn: OpenBookQA, each question with its options and its answer; all tokens count. Texts
to remember: passages of Wikipedia from BoolQ. Texts are joined and cut into blocks without padding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayeslora.errors import InputError

BLOCK = 64
NUM_POOL, NUM_CONTEXT, NUM_TEST = 400, 100, 12
TARGET, GENERIC = "target", "generic"
_AT_ONCE = 8


@dataclass(frozen=True)
class Texts:
    """Blocks of tokens, [N, BLOCK] int64 each.

    Attributes:
        pool: Training blocks.
        contexts: By name: the first blocks of the pool, and blocks of the text to remember.
        tests: Test blocks by name; none of their texts is in the pool or a context.
    """

    pool: Tensor
    contexts: dict[str, Tensor]
    tests: dict[str, Tensor]

    def digest(self) -> str:
        """Return a hash of all blocks."""
        digest = hashlib.sha256()
        for blocks in (self.pool, *self.contexts.values(), *self.tests.values()):
            digest.update(blocks.numpy().tobytes())
        return digest.hexdigest()[:16]


def open_model(source: Path) -> nn.Module:
    """Load the language model in a directory, frozen, in float32."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - slow to import

    model: nn.Module = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model.config.use_cache = False  # type: ignore[union-attr]
    return model.requires_grad_(False).eval()


def next_token_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Return the mean loss per token of blocks [B, T] in nats, without their first tokens."""
    logits = model(input_ids=ids).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


@torch.no_grad()
def test_losses(model: nn.Module, texts: Texts) -> dict[str, float]:
    """Return the mean loss on each set of test blocks."""
    return {name: _mean_loss(model, blocks) for name, blocks in texts.tests.items()}


def _mean_loss(model: nn.Module, blocks: Tensor) -> float:
    parts = blocks.split(_AT_ONCE)
    return sum(float(next_token_loss(model, part)) * len(part) for part in parts) / len(blocks)


def read_texts(data_dir: Path, source: Path, num_test: int | None = None) -> Texts:
    """Return blocks of the two data sets in the tokens of the model in `source`.

    Args:
        data_dir: Directory of the data sets.
        source: Directory of the model.
        num_test: Blocks of each test; None uses `NUM_TEST`.

    Raises:
        InputError: If a file is missing or has too few texts.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow to import

    tokenizer = AutoTokenizer.from_pretrained(source)
    questions = _distinct(data_dir / "openbookqa", _question)
    passages = _distinct(data_dir / "boolq_passage_val", lambda row: str(row["passage"]))
    pool = _blocks(tokenizer, questions["train"], NUM_POOL)
    context = _blocks(tokenizer, passages["train"], NUM_CONTEXT)
    count = NUM_TEST if num_test is None else num_test
    return Texts(
        pool,
        {TARGET: pool[:NUM_CONTEXT], GENERIC: context},
        {
            TARGET: _spread(tokenizer, questions["test"], count),
            GENERIC: _spread(tokenizer, passages["test"], count),
        },
    )


def _question(row: dict[str, Any]) -> str:
    choices = row["choices"]
    options = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCDE", choices, strict=False))
    return f"Question: {row['question']}\n{options}\nAnswer: {choices[row['answer_index']]}"


def _distinct(folder: Path, text_of: Any) -> dict[str, list[str]]:
    """Return the distinct texts of both splits; training texts exclude test texts."""
    test = dict.fromkeys(map(text_of, _rows(folder / "test.jsonl")))
    train = dict.fromkeys(map(text_of, _rows(folder / "train.jsonl")))
    return {"train": [text for text in train if text not in test], "test": list(test)}


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    if not file.is_file():
        raise InputError(f"{file} does not exist; name the data directory with --data-dir")
    with file.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _blocks(tokenizer: Any, texts: Iterable[str], count: int) -> Tensor:
    """Return the first `count` blocks of texts joined by end tokens."""
    tokens: list[int] = []
    for text in texts:
        tokens += [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        if len(tokens) >= count * BLOCK:
            return torch.tensor(tokens[: count * BLOCK]).view(count, BLOCK)
    raise InputError(f"the texts have {len(tokens)} tokens, {count * BLOCK} are needed")


def _spread(tokenizer: Any, texts: Sequence[str], count: int) -> Tensor:
    """Return `count` blocks from evenly spread texts, so that no text dominates."""
    size = len(texts) // count
    if not size:
        raise InputError(f"there are {len(texts)} texts, {count} are needed")
    starts = range(0, size * count, size)
    return torch.cat([_blocks(tokenizer, texts[at : at + size], 1) for at in starts])
