"""The last line of a verb summarises its result; on a terminal the next command follows."""

import shlex

import pytest

DIM, NEXT = "\x1b[2m", "next: bayeslora "


def next_command(err):
    """Return the words of the hint on a terminal, or None without a hint."""
    (line,) = [line for line in err.splitlines() if NEXT in line] or [""]
    if not line:
        return None
    assert line.startswith(DIM)
    return shlex.split(line.removeprefix(DIM).removesuffix("\x1b[0m").removeprefix(NEXT))


@pytest.fixture
def steps(run, world, tmp_path):
    """Run the verbs from a classifier to a comparison; return the output of each."""
    model, out, mean = (tmp_path / name for name in ("my model", "test.parquet", "mean.parquet"))

    def commands(*more):
        calibrate = ["calibrate", world.classifier, world.train, "--posterior", "laplace"]
        yield run(*calibrate, "--hold-out", 0.3, "--out", model, *more)
        yield run("predict", model, world.test, "--out", out, *more)
        assert run("predict", model, world.test, "--num-samples", 0, "--out", mean).code == 0
        yield run("compare", out, mean, *more)

    return commands


@pytest.mark.usefixtures("terminal")
def test_a_terminal_shows_the_next_command_with_its_names(steps, world, tmp_path):
    calibrated, predicted, compared = steps()
    model, out = str(tmp_path / "my model"), str(tmp_path / "test.parquet")
    assert next_command(calibrated.err) == (
        ["predict", model, str(world.train.with_name("test.jsonl")), "--out", "test.parquet"]
    )
    report = ["report", out, "--out", str(tmp_path / "test-report")]
    assert next_command(predicted.err) == report
    mean = str(tmp_path / "mean.parquet")
    assert next_command(compared.err) == ["report", out, mean, "--out", "report"]
    for result in (calibrated, predicted, compared):
        assert result.out.splitlines()[-1].startswith("\x1b[1m")


def test_a_pipe_gets_the_summary_and_no_hint(steps, world, tmp_path):
    calibrated, predicted, compared = steps()
    for result, named in (
        (calibrated, (str(tmp_path / "my model"), "laplace")),
        (predicted, (str(tmp_path / "test.parquet"), "60 ", "laplace")),
        (compared, ("laplace", "mle")),
    ):
        assert next_command(result.err) is None
        assert "\x1b" not in result.out
        last = result.out.splitlines()[-1]
        assert all(name in last for name in named), last


@pytest.mark.usefixtures("terminal")
def test_quiet_hides_the_next_command(steps):
    assert [next_command(result.err) for result in steps("--quiet")] == [None] * 3
