"""Options of `bayeslora report` for its examples."""

import pytest
from cli_files import fake

from bayeslora.predictions.record import Predictions


@pytest.fixture
def file(tmp_path):
    """Write a predictions file with texts and another column."""
    path = fake(tmp_path / "m.parquet", seed=1)
    predictions = Predictions.load(path)
    columns = {"text": ["a secret"] * len(predictions), "note": ["a remark"] * len(predictions)}
    predictions.replace(columns=columns).save(path)
    return path


def page(run, file, *options):
    out = file.parent / "report"
    result = run("report", file, "--out", out, "--overwrite", *options)
    assert result.code == 0, result.err
    return (out / "index.html").read_text(encoding="utf-8")


def test_texts_are_shown_chosen_and_left_out(run, refused, file):
    html = page(run, file)
    assert "a secret" in html
    assert "a remark" not in html
    assert ">command<" in html
    assert f"bayeslora report {file} --out" in html
    assert "a remark" in page(run, file, "--example-column", "note")
    html = page(run, file, "--no-examples")
    assert "a secret" not in html
    assert "Most confidently wrong" not in html
    words = ("report", file, "--out", file.parent / "new", "--example-column", "notes")
    assert "did you mean 'note'?" in refused(*words)
    assert not (file.parent / "new").exists()
