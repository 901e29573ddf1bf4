"""A sample of the fault campaign, and checks of its harness."""

import json
import os
import sys

import pytest
from forked import Forked

from faults import campaign, strict
from faults.crash_points import Recorder
from faults.process import CRASHED, run


def sample(out):
    sys.argv = ["tests.faults", "--sample", "--jobs", "1", "--out", out]
    sys.exit(campaign.main())


def test_a_sample_of_the_campaign_breaks_no_promise(tmp_path):
    running = Forked(sample, str(tmp_path), env={"CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "agg"})
    printed, errors = running.communicate()
    assert running.returncode == 0, printed + errors
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert len(results["scenarios"]) == 4


def in_child(function):
    """Run a function in a forked child; return its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize(
    ("stop", "left"), [(1, {}), (2, {"first.part": "abcd"}), (3, {"first": "abcd"})]
)
def test_a_crash_point_is_before_its_operation(tmp_path, stop, left):
    def write():
        Recorder(tmp_path, stop).install()
        (tmp_path / "first.part").write_text("abcd")
        (tmp_path / "first.part").rename(tmp_path / "first")
        (tmp_path / "other").write_text("efgh")

    assert in_child(write) == CRASHED
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == left


def test_waiting_and_computing_for_ever_are_hangs(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    def wait():
        (tmp_path / "pipe").read_bytes()

    def compute():
        while True:
            pass

    for forever in (wait, compute):
        assert run(["--version"], tmp_path, forever, limit=1).hung
    ended = run(["--version"], tmp_path, limit=1)
    assert (ended.code, ended.hung) == (0, False)


@pytest.mark.parametrize(
    "content",
    [
        '{"text": "a", "text": "b"}',
        '{"text": "a", "label": NaN}',
        '{"text": ""}',
        '{"text": "\\ud800"}',
        '{"text": "a", "id": 1}\n{"text": "b", "id": "1"}',
        '{"text": "a", "label": 0.5}',
        "[" * 100_000,
    ],
)
def test_the_strict_reader_refuses(tmp_path, content):
    file = tmp_path / "data.jsonl"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(strict.Refused):
        strict.data(file)
