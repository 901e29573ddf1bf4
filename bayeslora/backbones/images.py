"""Images in the place of texts: from paths to pixels, and the vision models that take them.

`Pixels` stands where `Tokens` do. The tokens of an image are its patches, all images have as many,
and adapters, cached lower layers and posteriors work on them as on those of a text.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bayeslora.errors import InputError
from bayeslora.files import read_json
from bayeslora.tables.images import read_image

if TYPE_CHECKING:
    from bayeslora.backbones.load import Backbone

READER_FILE = "preprocessor_config.json"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


@dataclass(frozen=True)
class ImageReader:
    """How pixels are scaled for a model; it stands where a text model has its tokenizer.

    Attributes:
        mean: Of red, green and blue, between 0 and 1, which is subtracted.
        std: What they are divided by.
    """

    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD

    @classmethod
    def of(cls, source: str) -> ImageReader:
        """Return the reader that a model asks for, that of ImageNet where it is silent.

        Args:
            source: A directory or a hub id.

        Raises:
            InputError: Its file is damaged.
        """
        from transformers.utils.hub import cached_file

        found_at = cached_file(source, READER_FILE, _raise_exceptions_for_missing_entries=False)
        if found_at is None:
            return cls()
        file = Path(found_at)
        content = read_json(file)
        found = content if isinstance(content, dict) else {}
        values = [
            found.get(name) or usual for name, usual in zip(_KEYS, (_MEAN, _STD), strict=True)
        ]
        for name, value in zip(_KEYS, values, strict=True):
            numbers = isinstance(value, list | tuple) and len(value) == 3
            if not numbers or not all(isinstance(one, int | float) for one in value):
                raise InputError(f"{file}: {name} must be three numbers, got {value!r}")
        if not all(one > 0 for one in values[1]):
            raise InputError(f"{file}: {_KEYS[1]} must be above 0, got {values[1]!r}")
        return cls(tuple(values[0]), tuple(values[1]))

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the file that `of` reads."""
        content = dict(zip(_KEYS, map(list, (self.mean, self.std)), strict=True))
        (Path(directory) / READER_FILE).write_text(json.dumps(content, indent=2), encoding="utf-8")

    def scaled(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Return [B, 3, S, S] float32 for pixels [B, S, S, 3]."""
        values = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (self.mean, self.std))
        return (values - mean) / std


_KEYS = ("image_mean", "image_std")


@dataclass(frozen=True)
class Pixels:
    """Images of one size, in memory; see `bayeslora.backbones.tokens.Tokens`.

    Attributes:
        ids: An array [S, S, 3] uint8 for each image.
        num_tokens: T, the states of an image: its patches and what the model puts before them.
        reader: Scales the pixels.
    """

    ids: tuple[NDArray[np.uint8], ...]
    num_tokens: int
    reader: ImageReader
    num_truncated: int = 0
    types: None = None
    num_options: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[N]: T for each image."""
        return np.full(len(self.ids), self.num_tokens, dtype=np.int64)

    def take(self, rows: Sequence[int]) -> Pixels:
        """Return some of the images."""
        return replace(self, ids=tuple(self.ids[row] for row in rows))

    def arrays(self) -> Iterator[NDArray[Any]]:
        """Yield everything that decides the states of the images, beside their lengths."""
        yield from self.ids

    def pad(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Return what a model is called with: `pixel_values`, and `attention_mask` [B, T] of 1."""
        values = self.reader.scaled(np.stack([self.ids[row] for row in rows]))
        mask = torch.ones(len(rows), self.num_tokens, dtype=torch.long)
        return {"pixel_values": values, "attention_mask": mask}


def read_pixels(backbone: Backbone, images: Sequence[str], *, max_length: int) -> Pixels:
    """Return images as pixels, scaled to the square that so many tokens cover.

    Args:
        backbone: A vision model.
        images: Paths of N images.
        max_length: Tokens of an image, at most.

    Raises:
        InputError: An image cannot be read.
    """
    from PIL import Image

    side, length = size_for(backbone, max_length)
    found = []
    for image in images:
        opened = Image.fromarray(read_image(image))
        shrunk = opened.resize((side, side), Image.Resampling.BICUBIC)
        found.append(np.array(shrunk))
    return Pixels(tuple(found), length, backbone.tokenizer)


def blank_pixels(backbone: Backbone, count: int, *, max_length: int) -> Pixels:
    """Return images of noise, the same in each call, to find out what a model does."""
    side, length = size_for(backbone, max_length)
    noise = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return Pixels(tuple(noise), length, backbone.tokenizer)


def size_for(backbone: Backbone, max_length: int) -> tuple[int, int]:
    """Return the side in pixels of the largest square of at most `max_length` tokens, and these.

    It is not larger than what the model was made for, and has at least one patch.
    """
    config: Any = backbone.model.config
    before = extra_tokens(config)
    most = config.image_size // config.patch_size
    patches = min(max(math.isqrt(max(max_length - before, 1)), 1), most)
    return patches * config.patch_size, patches**2 + before


def extra_tokens(config: Any) -> int:
    """Return how many states come before those of the patches: the class token's, and registers."""
    distilled = getattr(config, "model_type", "") == "deit"
    return 1 + int(getattr(config, "num_register_tokens", 0) or 0) + int(distilled)


def is_vision(config: Any) -> bool:
    """Return whether a configuration is of a vision transformer that reads square patches."""
    from transformers.models.auto import modeling_auto as auto

    if config.model_type not in auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        return False
    sizes = [getattr(config, name, None) for name in ("image_size", "patch_size", "hidden_size")]
    return all(isinstance(size, int) for size in sizes)


def run_vision(model: nn.Module, inputs: dict[str, Tensor]) -> Any:
    """Return the output of a vision model for `pixel_values` of any size."""
    values = inputs["pixel_values"].to(next(model.parameters()).dtype)
    # Some interpolate their positions where they are asked to, and the others always.
    takes = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    return model(pixel_values=values, **({"interpolate_pos_encoding": True} if takes else {}))


def check_vision(name: str, backbone: Backbone) -> None:
    """Raise InputError if a vision model does not give a state for each patch.

    Raises:
        InputError: Its states are others.
    """
    pixels = blank_pixels(backbone, 1, max_length=5)
    inputs = {key: value.to(backbone.device) for key, value in pixels.pad([0]).items()}
    found = list(run_vision(backbone.model, inputs).last_hidden_state.shape)
    expected = [1, pixels.num_tokens, backbone.num_features]
    if found != expected:
        raise InputError(
            f"backbone {name!r} gives states of shape {found} for an image, expected {expected}: "
            "take a model with a state for the class and one for each patch, such as ViT or DINOv2"
        )
