"""Model directories on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from bayeslora.errors import InputError, first_line

# Nothing else is read: no pickles, and no weights of other frameworks.
_READ = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.md"]


def local_directory(source: str | Path) -> str | Path:
    """Return a directory as it is, and a model on the hub, `owner/name`, downloaded.

    Raises:
        InputError: The hub has no such model, or cannot be reached.
    """
    name = str(source)
    if Path(source).exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return source
    from huggingface_hub import errors, snapshot_download

    failures: tuple[type[Exception], ...] = (
        errors.HfHubHTTPError,
        errors.HFValidationError,
        errors.LocalEntryNotFoundError,
        OSError,
    )
    try:
        return snapshot_download(name, allow_patterns=_READ)
    except failures as error:
        raise InputError(
            f"{name} is neither a directory nor a model on the Hugging Face hub: "
            f"{first_line(error)}; for a private model run `hf auth login`"
        ) from None


def upload(directory: Path, repo_id: str, *, private: bool | None, message: str) -> str:
    """Upload a model directory to the hub, creating the repository if needed.

    Returns:
        The address of the commit.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    commit = api.upload_folder(repo_id=repo_id, folder_path=directory, commit_message=message)
    return str(commit.commit_url)
