"""Small models, data and predictions files for the command line."""

from types import SimpleNamespace

import pytest
import tiny
from cli_files import write_rows

from bayeslora.cli import main


@pytest.fixture(autouse=True, scope="module")
def _cheap_reports(few_resamples, blank_figures):
    """Use few resamples and blank figures, which matter to no command."""


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
    """Run a command that must be refused; return its stderr."""

    def command(*argv):
        before = sorted(tmp_path.rglob("*"))
        result = run(*argv)
        assert result.code == 2, result.err
        assert result.out == ""
        lines = result.err.strip().splitlines()
        assert 1 <= len(lines) <= 2, result.err
        assert lines[-1].startswith("bayeslora: error: ")
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
        return result.err

    return command


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Create backbones, a classifier, data, and a model fitted by the command line."""
    folder = tmp_path_factory.mktemp("world")
    paths = SimpleNamespace(
        llama=tiny.tiny_llama(folder / "llama"),
        bert=tiny.tiny_bert(folder / "bert"),
        classifier=tiny.tiny_classifier(folder / "classifier"),
        train=write_rows(folder / "train.jsonl", tiny.toy_rows(90, seed=1)),
        valid=write_rows(folder / "valid.jsonl", tiny.toy_rows(45, seed=2)),
        test=write_rows(folder / "test.jsonl", tiny.toy_rows(60, seed=3)),
        model=folder / "model",
    )
    options = ["--backbone", paths.llama, "--epochs", 2, "--quiet", "--out", paths.model]
    options += tiny.QUICK_VBLL_ARGS
    code = main(list(map(str, ["fit", paths.train, "--validation", paths.valid, *options])))
    assert code == 0
    return paths
