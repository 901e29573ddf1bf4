"""Tests check the code of a refusal, since messages may change."""

from contextlib import contextmanager

import pytest

from bayeslora.errors import InputError


@contextmanager
def refused(code):
    """Assert that the block raises an `InputError` with this code; yields the `ExceptionInfo`."""
    with pytest.raises(InputError) as caught:
        yield caught
    assert caught.value.code == code, caught.value
