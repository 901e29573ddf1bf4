"""Predictions for the gallery that other libraries made: scikit-learn, and plain transformers.

Nothing of bayeslora trains here. Both data sets are on the machine: digits come with scikit-learn,
posts with the demo.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.predictions.record import Predictions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WORDS = 64
"""Words of a post that the transformer reads."""


def recipe() -> str:
    """Return the hash of this file, by which a page tells whether it was made by it."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def scikit_learn() -> list[Predictions]:
    """Return two classifiers of handwritten digits on the same half of them."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.naive_bayes import GaussianNB
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    images, digits = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(
        images, digits, test_size=0.5, random_state=0, stratify=digits
    )
    classifiers = {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "naive Bayes": make_pipeline(StandardScaler(), GaussianNB(var_smoothing=1e-2)),
    }
    return [
        Predictions.from_arrays(
            classifier.fit(X, y).predict_proba(X_test),
            y_test,
            kind="probs",
            classes=classifier.classes_,
            name=name,
        )
        for name, classifier in classifiers.items()
    ]


def plain_transformers() -> list[Predictions]:
    """Train a small BERT from random weights on posts, and return what its Trainer predicts."""
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        BertConfig,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from bayeslora.data.newsgroups import IN_DISTRIBUTION, load_newsgroups

    posts = load_newsgroups()
    tokenizer = word_tokenizer(posts.train.texts)
    names = dict(enumerate(IN_DISTRIBUTION))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=WORDS,
        id2label=names,
        label2id={name: index for index, name in names.items()},
    )
    torch.set_num_threads(1)  # several add up in another order
    set_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    with tempfile.TemporaryDirectory() as aside:
        arguments = TrainingArguments(
            aside,
            num_train_epochs=12,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=64,
            learning_rate=1e-3,
            seed=0,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=_rows(posts.train, tokenizer, IN_DISTRIBUTION),
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trainer.train()
        output = trainer.predict(_rows(posts.test, tokenizer, IN_DISTRIBUTION))
    return [
        Predictions.from_prediction_output(
            output, model.config.id2label, ids=posts.test.ids, name="small BERT"
        )
    ]


def word_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the words that occur twice or more."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from tokenizers.trainers import WordLevelTrainer
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    special = ["[PAD]", "[UNK]", "[CLS]"]
    trainer = WordLevelTrainer(min_frequency=2, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", tokenizer.token_to_id("[CLS]"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]"
    )


def _rows(
    posts: Any, tokenizer: PreTrainedTokenizerFast, classes: Sequence[str]
) -> list[dict[str, Any]]:
    encoded = tokenizer(list(posts.texts), truncation=True, max_length=WORDS)["input_ids"]
    return [
        {"input_ids": words, "labels": classes.index(label)}
        for words, label in zip(encoded, posts.labels, strict=True)
    ]
