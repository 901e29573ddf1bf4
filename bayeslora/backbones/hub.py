"""Early check that a hub id exists.

Without it, loading from an unreachable hub is retried for half a minute per file.
"""

from __future__ import annotations

from pathlib import Path

from bayeslora.errors import InputError, first_line

# Every model repository has one of these files.
_KEY_FILES = ("config.json", "adapter_config.json")
_TIMEOUT = 10.0


def check_reachable(source: str) -> None:
    """Raise InputError if `source` is neither a path, nor cached, nor on the hub.

    Raises:
        InputError: It is none of these, or the hub is unreachable; the message says which.
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
            f"model {source!r} does not exist on the Hugging Face hub, or is private; for a "
            "private model run `hf auth login`"
        ) from None
    except (unreachable, OSError) as error:
        raise InputError(
            f"{source} is not a local directory, is not in the hub's cache, and the hub cannot "
            f"be reached: {first_line(error)}"
        ) from None
