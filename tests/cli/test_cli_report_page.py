"""What `bayeslora report` may be told of its page: examples and templates."""

import pytest
from cli_files import fake

from bayeslora.predictions.record import Predictions


@pytest.fixture
def file(tmp_path):
    """A predictions file with texts and another column."""
    path = fake(tmp_path / "m.parquet", seed=1)
    found = Predictions.load(path)
    columns = {"text": ["a secret"] * len(found), "note": ["a remark"] * len(found)}
    found.replace(columns=columns).save(path)
    return path


def page(run, file, *options):
    out = file.parent / "report"
    result = run("report", file, "--out", out, "--overwrite", *options)
    assert result.code == 0, result.err
    return (out / "index.html").read_text(encoding="utf-8")


def test_texts_are_shown_chosen_and_left_out(run, refused, file):
    found = page(run, file)
    assert "a secret" in found
    assert "a remark" not in found
    assert "command to repeat it" in found
    assert f"bayeslora report {file} --out" in found
    assert "a remark" in page(run, file, "--example-column", "note")
    found = page(run, file, "--no-examples")
    assert "a secret" not in found
    assert "Most confidently wrong" not in found
    words = ("report", file, "--out", file.parent / "new", "--example-column", "notes")
    assert "did you mean 'note'?" in refused(*words)
    assert not (file.parent / "new").exists()


def test_a_template_changes_the_page_and_its_errors_are_ours(run, refused, file, tmp_path):
    path = tmp_path / "look.html.j2"
    path.write_text('{% extends "bayeslora/report.html.j2" %}{% block footer %}ACME{% endblock %}')
    found = page(run, file, "--template", path)
    assert "ACME" in found
    assert "Made by bayeslora" not in found
    path.write_text("{{ page.nothing }}")
    words = ("report", file, "--out", tmp_path / "new", "--template", path)
    assert "look.html.j2, line 1:" in refused(*words)
    assert not (tmp_path / "new").exists()
