"""An interrupted fit resumes where it stopped and ends in the same bits."""

import shutil
import signal
import time

import pytest
import tiny
import torch
from forked import Forked, bayeslora
from safetensors.torch import load_file

from bayeslora.engine import cross_validation
from bayeslora.engine import loop as training

EPOCHS = 5


def words_of_fit(world, out, **changes):
    options = {"backbone": world.llama, "epochs": EPOCHS, "set": f"patience={EPOCHS}", "seed": 1}
    words = ["fit", world.train, "--validation", world.valid, "--out", out, "--quiet"]
    words += tiny.QUICK_VBLL_ARGS
    for name, value in (options | changes).items():
        words += [f"--{name}", value]
    return list(map(str, words))


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """Run the same fit without an interruption."""
    from bayeslora.cli import main

    out = tmp_path_factory.mktemp("whole") / "m"
    assert main(words_of_fit(world, out)) == 0
    return out


def fit_and_wait(*words):
    """Fit, but wait for a signal when the first checkpoint is written."""
    write = training.write_checkpoint

    def waiting(directory, *checkpoint):
        write(directory, *checkpoint)
        while True:  # a signal just before `signal.pause` would be waited for in vain
            time.sleep(0.01)

    training.write_checkpoint = waiting
    bayeslora(*words)


def stopped(words, out, kind):
    """Run a fit in a new process; send a signal after its first checkpoint."""
    process = Forked(fit_and_wait, *words)
    while process.poll() is None and not list(out.glob("checkpoints/*/checkpoint.safetensors")):
        time.sleep(0.005)
    process.send_signal(kind)
    for _ in range(200):  # Python drops an interrupt within a weak reference's callback
        time.sleep(0.05)
        if process.poll() is not None:
            break
    else:
        process.send_signal(kind)
    stdout, stderr = process.communicate()
    return process.returncode, stdout, stderr


def check_same(directory, other):
    for name in ("adapter.safetensors", "posterior.safetensors"):
        expected = load_file(other / name)
        actual = load_file(directory / name)
        assert actual.keys() == expected.keys()
        for key, tensor in expected.items():
            assert torch.equal(actual[key], tensor), key
    records = [(path / "bayeslora.json").read_text() for path in (directory, other)]
    assert records[0] == records[1]
    files = [sorted(file.name for file in path.iterdir()) for path in (directory, other)]
    assert files[0] == files[1]


def test_killed(run, world, whole, tmp_path):
    out = tmp_path / "m"
    code, _, _ = stopped(words_of_fit(world, out), out, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert run(*words_of_fit(world, out)).code == 0
    check_same(out, whole)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_by_hand_or_scheduler(run, refused, world, whole, tmp_path, kind):
    out = tmp_path / "m"
    code, stdout, stderr = stopped(words_of_fit(world, out), out, kind)
    assert (code, stdout) == (130, "")
    assert "the same command continues" in stderr
    assert "Traceback" not in stderr.partition("Exception ignored")[0]
    message = refused(*words_of_fit(world, out, seed=2))
    assert "interrupted fit with another seed" in message
    assert "is not a bayeslora model" in refused("info", out)
    assert run(*words_of_fit(world, out)).code == 0
    check_same(out, whole)


@pytest.fixture(scope="module")
def before_the_end(world, tmp_path_factory):
    """Interrupt the same fit after its last epoch."""
    from bayeslora.cli import main

    def stop(*args, **options):
        raise KeyboardInterrupt

    out = tmp_path_factory.mktemp("interrupted") / "m"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_validation, "fit_posterior", stop)
        assert main(words_of_fit(world, out)) == 130
    return out


def test_damage_costs_time_and_changes_nothing(run, world, whole, before_the_end, tmp_path):
    """As on a full or a failing disk."""
    out = tmp_path / "m"
    shutil.copytree(before_the_end, out)
    path = out / "checkpoints" / "member-0" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    result = run(*words_of_fit(world, out))
    assert result.code == 0, result.err
    assert "damaged" in result.err
    check_same(out, whole)


def test_overwrite_starts_anew_where_the_options_differ(run, world, tmp_path, whole, monkeypatch):
    out = tmp_path / "m"

    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cross_validation, "fit_posterior", stop)
        assert run(*words_of_fit(world, out, seed=2)).code == 130
    assert run(*words_of_fit(world, out), "--overwrite").code == 0
    check_same(out, whole)


def test_a_finished_fit_is_not_repeated(refused, world, whole, tmp_path):
    copy = tmp_path / "m"
    shutil.copytree(whole, copy)
    assert "exists" in refused(*words_of_fit(world, copy))
