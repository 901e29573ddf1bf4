"""The last line of a verb summarises its result; on a terminal the next command follows."""

import shlex

import pytest
import tiny
from cli_files import fake

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
        yield run(
            "calibrate", world.classifier, world.train, "--hold-out", 0.3, "--out", model, *more
        )
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


@pytest.mark.usefixtures("terminal")
def test_a_fit_and_unlabelled_predictions_have_a_next_command(run, world, tmp_path):
    fit = ["fit", world.train, "--backbone", world.llama, "--quick", "--posterior", "map"]
    result = run(*fit, "--out", tmp_path / "m", *tiny.WHOLE_AND_RAW_ARGS)
    assert next_command(result.err)[:2] == ["predict", str(tmp_path / "m")]
    assert str(tmp_path / "m") in result.out.splitlines()[-1]
    texts, out = tmp_path / "texts.jsonl", tmp_path / "p.parquet"
    texts.write_text('{"text": "rain"}\n', encoding="utf-8")
    result = run("predict", tmp_path / "m", texts, "--out", out)
    assert next_command(result.err) == ["view", str(out)]
    assert len(result.out.splitlines()) == 1


def test_the_line_of_a_comparison_names_the_best_and_who_is_clearly_worse(run, tmp_path):
    good = fake(tmp_path / "good.parquet", rows=200, name="good", sharp=1.0)
    bad = fake(tmp_path / "bad.parquet", rows=200, name="bad", sharp=4.0)
    for files, word in (((good, bad), "better than bad"), ((bad, good), "reference, bad")):
        last = run("compare", *files).out.splitlines()[-1]
        assert "good" in last.split(";")[0]
        assert word in last.split(";")[1]
