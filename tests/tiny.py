"""Small models with random weights, and texts that they can learn to classify.

Every builder writes a directory that transformers loads, with the same bytes each time.
"""

import json
import random
from pathlib import Path

import numpy as np
import torch

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
TOPICS = {
    "animals": ("cat", "dog", "horse", "bird", "fish", "barks", "purrs", "swims"),
    "food": ("bread", "soup", "cheese", "apple", "rice", "tasty", "salty", "fresh"),
    "weather": ("rain", "snow", "storm", "cloud", "wind", "cold", "warm", "wet"),
}
FILLERS = ("the", "a", "is", "was", "and", "in", "on", "today", "here", "very")
WHOLE_AND_RAW = {"depth": 1.0, "template": "{text}", "verbaliser": "none"}
"""Options of a classifier that uses all layers and only the text, without a template."""
WHOLE_AND_RAW_ARGS = ("--depth", "1.0", "--template", "{text}", "--verbaliser", "none")
CLASSES = tuple(sorted(TOPICS))
QUICK_VBLL = "vbll:prior_scale=2"
"""The default without its learnt prior scale and its bound, two thirds of a tiny fit's time."""
QUICK_VBLL_ARGS = ("--posterior", QUICK_VBLL)


def toy_rows(n, seed=0):
    """Return `n` rows with `id`, `text` and `label`; most words are of the label's topic."""
    chance = random.Random(seed)
    rows = []
    for row in range(n):
        label = CLASSES[row % len(CLASSES)]
        other = chance.choice(CLASSES)
        words = [
            *chance.choices(TOPICS[label], k=3),
            chance.choice(TOPICS[other]),
            *chance.choices(FILLERS, k=chance.randint(1, 5)),
        ]
        chance.shuffle(words)
        rows.append({"id": f"{seed}-{row}", "text": " ".join(words), "label": label})
    return rows


def toy_questions(n, seed=0):
    """Return `n` questions with 2 or 3 options: which words are of the question's topic?"""
    chance = random.Random(seed)
    rows = []
    for row in range(n):
        topics = chance.sample(CLASSES, chance.choice((2, 3, 3)))
        answer = chance.randrange(len(topics))
        rows.append(
            {
                "id": f"{seed}-{row}",
                "question": " ".join(chance.choices(TOPICS[topics[answer]], k=3)),
                "choices": [" ".join(chance.sample(TOPICS[topic], 2)) for topic in topics],
                "answer": answer,
            }
        )
    return rows


def toy_next_items(n, seed=0):
    """Return `n` users of a topic each; the next item is its word among two or three others."""
    chance = random.Random(seed)
    rows = []
    for row in range(n):
        own, other = chance.sample(sorted(TOPICS), 2)
        words = chance.sample(TOPICS[own], 5)
        candidates = chance.sample(TOPICS[other], 2 + row % 2)
        candidates.insert(chance.randrange(len(candidates) + 1), words[4])
        rows.append({"history": words[:4], "candidates": candidates, "answer": words[4]})
    return rows


def without_hashes(model):
    """Remove the hashes from a model directory; return it."""
    path = Path(model) / "bayeslora.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in content.items() if k not in ("files", "sha256")}))
    return model


def tiny_tokenizer(texts=None):
    """Return a whole-word tokenizer; without `texts` it knows the words of `toy_rows`."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    known = [*FILLERS, *(word for words in TOPICS.values() for word in words)]
    words = known if texts is None else [word for text in texts for word in text.split()]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: place for place, word in enumerate([*specials, *dict.fromkeys(words)])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
        model_max_length=SIZES["max_position_embeddings"],
    )


def tiny_llama(path, seed=0, **more):
    """Write a decoder of 3 layers and width 16 with its tokenizer; return its directory."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return _write(path, LlamaForCausalLM, LlamaConfig, seed, num_key_value_heads=2, **more)


def lettered_llama(path, seed=0, **more):
    """Write a decoder whose tokenizer knows the letters of options and the words of prompts."""
    from transformers import LlamaConfig, LlamaForCausalLM

    words = [*FILLERS, *(word for words in TOPICS.values() for word in words)]
    frame = ["A B C D Question : Answer ) Pick correct option ."]
    tokenizer = tiny_tokenizer([*words, *frame])
    more = {"num_key_value_heads": 2, **more}
    return _write(path, LlamaForCausalLM, LlamaConfig, seed, tokenizer=tokenizer, **more)


def tiny_opt(path, seed=0, dropout=0.0):
    """Write a decoder that flattens its texts' tokens before some layers; return its directory."""
    from transformers import OPTConfig, OPTForCausalLM

    more = {"ffn_dim": 24, "word_embed_proj_dim": 16, "dropout": dropout}
    return _write(path, OPTForCausalLM, OPTConfig, seed, **more)


def tiny_bert(path, seed=0):
    """Write an encoder of 3 layers and width 16 with its tokenizer; return its directory."""
    from transformers import BertConfig, BertForMaskedLM

    return _write(path, BertForMaskedLM, BertConfig, seed)


def tiny_albert(path, seed=0):
    """Write an encoder whose 3 layers share their weights; return its directory."""
    from transformers import AlbertConfig, AlbertForMaskedLM

    return _write(path, AlbertForMaskedLM, AlbertConfig, seed, embedding_size=8)


def tiny_classifier(path, seed=0):
    """Write an encoder with a classification head that has learned `toy_rows` a little."""
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = tiny_tokenizer()
    names = dict(enumerate(CLASSES))
    config = BertConfig(
        **SIZES,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        id2label=names,
        label2id={name: index for index, name in names.items()},
    )
    torch.manual_seed(seed)
    model = BertForSequenceClassification(config)
    rows = toy_rows(48, seed=100 + seed)
    inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    labels = torch.tensor([CLASSES.index(row["label"]) for row in rows])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(30):
        optimizer.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
    return _save(path, model.eval(), tokenizer)


def tiny_vit(path, seed=0, kind="dinov2"):
    """Write a vision transformer of 2 layers, width 16 and 16 patches; return its directory."""
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "patch_size": 2,
        "image_size": 8,
        "initializer_range": 0.2,  # otherwise the class token sees almost nothing of an image
    }
    torch.manual_seed(seed)
    if kind == "dinov2":
        model = Dinov2Model(Dinov2Config(**sizes, mlp_ratio=2))
    else:
        model = ViTModel(ViTConfig(**sizes, intermediate_size=24))
    model.eval().save_pretrained(path)
    return Path(path)


def toy_images(folder, n, seed=0, size=8):
    """Write `n` PNG files, bright above, below or on the left; return rows of image and label."""
    from PIL import Image

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(seed)
    rows = []
    for row in range(n):
        pixels = chance.integers(0, 90, (size, size, 3), dtype=np.uint8)
        half = size // 2
        part = {0: np.s_[:half], 1: np.s_[half:], 2: np.s_[:, :half]}[row % 3]
        pixels[part] += 150
        name = f"{seed}-{row}.png"
        Image.fromarray(pixels).save(folder / name)
        rows.append({"image": name, "label": ("above", "below", "left")[row % 3]})
    return rows


def _write(path, model_class, config_class, seed, tokenizer=None, **options):
    tokenizer = tokenizer or tiny_tokenizer()
    special = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config = config_class(**{**SIZES, **special, **options})
    torch.manual_seed(seed)
    return _save(path, model_class(config).eval(), tokenizer)


def _save(path, model, tokenizer):
    path = Path(path)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
