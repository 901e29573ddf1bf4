"""Hub ids without a repository are detected at once."""

from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from refusal import refused

from bayeslora.backbones.load import open_source
from bayeslora.foreign import check_reachable


@pytest.fixture
def answer(monkeypatch):
    """Make the hub answer every request with an error, or with nothing."""

    def become(error):
        def model_info(self, repo_id, **options):
            if error is not None:
                raise error

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)

    return become


def test_what_the_hub_knows_passes(answer):
    answer(None)
    check_reachable("owner/name")


def test_what_is_cached_passes(answer, monkeypatch):
    answer(AssertionError("asked"))
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda source, file: "there" if file == "adapter_config.json" else None,
    )
    check_reachable("owner/name")


NOT_FOUND = RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (NOT_FOUND, "owner/name"),
        (OfflineModeIsEnabled("offline mode is on"), "offline mode is on"),
        (HTTPError("Name or service not known\nmore"), "Name or service not known"),
    ],
)
def test_the_answer_is_told_in_a_line(answer, error, named):
    answer(error)
    with refused("input", named) as caught:
        open_source("config", "owner/name", trust_remote_code=False)
    assert "a directory, a hub id, or a short name" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2
