"""Tests check the code of a refusal, since messages may change."""

import re
from contextlib import contextmanager

import pytest

from bayeslora.errors import InputError


@contextmanager
def refused(code, *named):
    """Assert that the block raises an `InputError` with this code; yields the `ExceptionInfo`.

    The message must contain each of `named` as whole words: names and values, such as those of
    options, files and rows.
    """
    with pytest.raises(InputError) as caught:
        yield caught
    message = str(caught.value)
    assert caught.value.code == code, message
    missing = [name for name in map(str, named) if not _contains(message, name)]
    assert not missing, message


def _contains(message, name):
    start = r"\b" if name[0].isalnum() else ""
    end = r"\b" if name[-1].isalnum() else ""
    return re.search(start + re.escape(name) + end, message)
