"""Small models, data and predictions files for the command line."""

from types import SimpleNamespace

import pytest
import tiny
from cli_files import write_rows

from bayeslora.cli import main


@pytest.fixture(autouse=True, scope="module")
def _cheap_reports(few_resamples, blank_figures):
    """How many resamples there are by default and how a figure looks matters to no command."""


@pytest.fixture
def run(capsys):
    """Run a command in this process; return its exit code, stdout and stderr."""

    def command(*argv):
        capsys.readouterr()
        code = main([str(item) for item in argv])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return command


@pytest.fixture
def refused(run, tmp_path):
    """Run a command that must be refused; return what it says on stderr."""

    def command(*argv):
        before = sorted(tmp_path.rglob("*"))
        result = run(*argv)
        assert result.code == 2, result.err
        assert result.out == ""
        lines = result.err.strip().splitlines()
        assert 1 <= len(lines) <= 2, result.err
        assert lines[0].startswith("bayeslora: error: ")
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
        return result.err

    return command


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A directory with backbones, a classifier, data, and a model fitted by the command line."""
    folder = tmp_path_factory.mktemp("world")
    found = SimpleNamespace(
        llama=tiny.tiny_llama(folder / "llama"),
        bert=tiny.tiny_bert(folder / "bert"),
        classifier=tiny.tiny_classifier(folder / "classifier"),
        train=write_rows(folder / "train.jsonl", tiny.toy_rows(90, seed=1)),
        valid=write_rows(folder / "valid.jsonl", tiny.toy_rows(45, seed=2)),
        test=write_rows(folder / "test.jsonl", tiny.toy_rows(60, seed=3)),
        model=folder / "model",
    )
    options = ["--backbone", found.llama, "--epochs", 2, "--quiet", "--out", found.model]
    options += tiny.QUICK_VBLL_ARGS
    code = main(list(map(str, ["fit", found.train, "--validation", found.valid, *options])))
    assert code == 0
    return found
