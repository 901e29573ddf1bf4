"""Whether a hub id exists, checked once and early.

Loading a file from a hub that cannot be reached is tried again for half a minute, file by file.
"""

from __future__ import annotations

from pathlib import Path

from bayeslora.errors import InputError, first_line

# A repository has one of these, whatever else is in it.
_KEY_FILES = ("config.json", "adapter_config.json")
_TIMEOUT = 10.0


def check_reachable(source: str) -> None:
    """Raise InputError if `source` is neither a path, nor cached, nor on the hub.

    Raises:
        InputError: It is none of them, or the hub cannot be asked; the message says which.
    """
    if Path(source).exists():
        return
    from huggingface_hub import HfApi, errors, try_to_load_from_cache

    unreachable: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]

    try:
        if any(isinstance(try_to_load_from_cache(source, file), str) for file in _KEY_FILES):
            return
        HfApi().model_info(source, timeout=_TIMEOUT)
    except errors.HFValidationError:
        raise InputError(f"{source} is neither a directory nor a hub id (owner/name)") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"there is no model {source!r} on the Hugging Face hub, or it is private; "
            "`hf auth login` lets you in"
        ) from None
    except (unreachable, OSError) as error:
        raise InputError(
            f"{source} is no directory here, is not in the hub's cache, and the hub cannot be "
            f"reached: {first_line(error)}"
        ) from None
