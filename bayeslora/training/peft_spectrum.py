"""What a LoRA checkpoint that PEFT wrote changes, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bayeslora.adapters.peft_bridge import load_peft, read_peft
from bayeslora.adapters.spectrum import SiteSpectrum, spectrum
from bayeslora.backbones.load import load_backbone
from bayeslora.errors import InputError
from bayeslora.training.progress import quiet_transformers


def peft_spectrum(
    directory: str | Path, *, backbone: str | None = None, **loading: Any
) -> list[SiteSpectrum]:
    """Return the spectrum of every layer that a checkpoint adapts.

    Args:
        directory: In PEFT's layout, with a LoRA that a plain site can reproduce.
        backbone: Where its base model is; None takes what the checkpoint names.
        loading: Options of `load_backbone`.

    Raises:
        InputError: The checkpoint cannot be read, or its base is not named or cannot be loaded.
    """
    base = backbone or read_peft(directory).base_model_name
    if not base:
        raise InputError(f"{directory} does not name its base model; say backbone=... (--backbone)")
    with quiet_transformers():
        model = load_backbone(base, **loading).model
    return [spectrum(site) for site in load_peft(model, directory)]
