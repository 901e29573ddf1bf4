"""The arguments that studies share."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.lib.arguments import study_parser


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_defaults_and_the_number_of_threads():
    parser = study_parser("What is asked.\n\nHow.", "reports/x", threads=3)
    args = parser.parse_args(["--data-dir", "d"])
    assert vars(args) == {"out": Path("reports/x"), "data_dir": Path("d"), "threads": 3}
    assert torch.get_num_threads() == 3
    assert parser.description == "What is asked."


def test_options_that_a_study_does_not_need():
    args = study_parser("Asked.", "x", data_dir=False, threads=None).parse_args([])
    assert vars(args) == {"out": Path("x")}


def test_a_study_without_threads_loads_no_torch():
    code = (
        "import sys; from benchmarks.lib.arguments import study_parser\n"
        "study_parser('', 'x', threads=None).parse_args([]); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
