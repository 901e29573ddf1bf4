"""Settings shared by all tests."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """One thread: results are then bit-equal from run to run, and two workers do not fight."""
    torch.set_num_threads(1)
