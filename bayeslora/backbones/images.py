"""Images instead of texts: from paths to pixels, and the vision models that read them.

`Pixels` replaces `Tokens`. The tokens of an image are its patches, the same number for all images;
adapters, cached lower layers and posteriors treat them like the tokens of a text.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bayeslora.errors import InputError
from bayeslora.io import read_json

READER_FILE = "preprocessor_config.json"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


@dataclass(frozen=True)
class ImageReader:
    """Normalisation of pixels for a model, in place of a tokenizer.

    Attributes:
        mean: Mean of red, green and blue, between 0 and 1, to subtract.
        std: Standard deviation of red, green and blue, to divide by.
    """

    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD

    @classmethod
    def of(cls, source: str) -> ImageReader:
        """Return the reader that a model specifies, by default that of ImageNet.

        Args:
            source: A directory or a hub id.
        """
        from transformers.utils.hub import cached_file

        path = cached_file(source, READER_FILE, _raise_exceptions_for_missing_entries=False)
        if path is None:
            return cls()
        settings = read_json(path)
        mean, std = settings.get(_KEYS[0]) or _MEAN, settings.get(_KEYS[1]) or _STD
        return cls(tuple(mean), tuple(std))

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the file that `of` reads to the directory of a model."""
        content = {_KEYS[0]: self.mean, _KEYS[1]: self.std}
        (Path(directory) / READER_FILE).write_text(json.dumps(content, indent=2), encoding="utf-8")

    def scaled(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Return [B, 3, S, S] float32 for pixels [B, S, S, 3]."""
        values = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (self.mean, self.std))
        return (values - mean) / std


_KEYS = ("image_mean", "image_std")


@dataclass(frozen=True)
class Pixels:
    """Images of one size, in memory; see `bayeslora.backbones.tokens.Tokens`.

    Attributes:
        ids: An array [S, S, 3] uint8 for each image.
        num_tokens: T, the number of states per image: patches and the model's extra tokens.
        reader: Normalises the pixels.
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
        """Yield all arrays that determine the states of the images, apart from their lengths."""
        yield from self.ids

    def pad(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Return the model inputs: `pixel_values`, and `attention_mask` [B, T] of ones."""
        values = self.reader.scaled(np.stack([self.ids[row] for row in rows]))
        mask = torch.ones(len(rows), self.num_tokens, dtype=torch.long)
        return {"pixel_values": values, "attention_mask": mask}


def read_pixels(
    images: Sequence[str], reader: ImageReader, config: Any, *, max_length: int
) -> Pixels:
    """Return images as pixels, resized to the largest square of at most `max_length` tokens.

    Args:
        images: Paths of N images.
        reader: Scales the pixels.
        config: Configuration of the vision model.
        max_length: Maximal number of tokens per image.

    Raises:
        InputError: An image cannot be read.
    """
    from PIL import Image

    from bayeslora.data.images import read_image

    side, length = size_for(config, max_length)
    arrays = []
    for image in images:
        opened = Image.fromarray(read_image(image))
        shrunk = opened.resize((side, side), Image.Resampling.BICUBIC)
        arrays.append(np.array(shrunk))
    return Pixels(tuple(arrays), length, reader)


def blank_pixels(count: int, reader: ImageReader, config: Any, *, max_length: int) -> Pixels:
    """Return deterministic noise images for probing a model."""
    side, length = size_for(config, max_length)
    noise = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return Pixels(tuple(noise), length, reader)


def size_for(config: Any, max_length: int) -> tuple[int, int]:
    """Return side in pixels and token count of the largest square of at most `max_length` tokens.

    It is at most the model's image size and has at least one patch.
    """
    num_extra = extra_tokens(config)
    max_patches = config.image_size // config.patch_size
    patches = min(max(math.isqrt(max(max_length - num_extra, 1)), 1), max_patches)
    return patches * config.patch_size, patches**2 + num_extra


def extra_tokens(config: Any) -> int:
    """Return the number of tokens before the patches: class, register and distillation tokens."""
    distilled = getattr(config, "model_type", "") == "deit"
    return 1 + int(getattr(config, "num_register_tokens", 0) or 0) + int(distilled)


def is_vision(config: Any) -> bool:
    """Return whether a configuration belongs to a vision transformer with square patches.

    One in several stages (`depths`), such as Swin, merges its patches between them.
    """
    from transformers.models.auto import modeling_auto as auto

    kinds = auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    if config.model_type not in kinds or hasattr(config, "depths"):
        return False
    sizes = [getattr(config, name, None) for name in ("image_size", "patch_size", "hidden_size")]
    return all(isinstance(size, int) for size in sizes)


def run_vision(model: nn.Module, inputs: dict[str, Tensor]) -> Any:
    """Return the output of a vision model for `pixel_values` of any size."""
    values = inputs["pixel_values"].to(next(model.parameters()).dtype)
    # Some models interpolate their positions on request, the others always.
    takes = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    return model(pixel_values=values, **({"interpolate_pos_encoding": True} if takes else {}))


def check_vision(name: str, model: Any, reader: ImageReader) -> None:
    """Raise InputError if a vision model does not return a state per patch.

    Raises:
        InputError: The states have an unexpected shape.
    """
    pixels = blank_pixels(1, reader, model.config, max_length=5)
    inputs = {key: value.to(model.device) for key, value in pixels.pad([0]).items()}
    shape = list(run_vision(model, inputs).last_hidden_state.shape)
    expected = [1, pixels.num_tokens, model.config.hidden_size]
    if shape != expected:
        raise InputError(
            f"backbone {name!r} returns states of shape {shape} for an image, expected "
            f"{expected}; use a model with a class token and one token per patch, such as ViT or "
            "DINOv2"
        )
