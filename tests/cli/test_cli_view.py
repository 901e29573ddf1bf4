"""`bayeslora view`: where the page goes, and when a browser opens."""

import webbrowser
from pathlib import Path

import numpy as np
import pytest

from bayeslora.cli import main
from bayeslora.predictions.record import Predictions


@pytest.fixture
def file(tmp_path):
    probs = np.tile([[0.7, 0.3], [0.2, 0.8]], (6, 1))
    texts = {"text": [f"text {row}" for row in range(12)]}
    path = tmp_path / "a.parquet"
    Predictions(probs, ("a", "b"), [0, 1] * 6, name="m", columns=texts).save(path)
    return path


@pytest.fixture
def opened(monkeypatch):
    urls = []
    monkeypatch.setattr(webbrowser, "open", lambda url: urls.append(url) or True)
    return urls


def test_a_temporary_page_opens_in_the_browser(file, opened, capsys):
    assert main(["view", str(file)]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert opened == [page.as_uri()]
    assert "text 3" in page.read_text(encoding="utf-8")


def test_the_page_goes_where_it_is_told(file, opened, tmp_path, capsys):
    out = tmp_path / "v.html"
    words = ["view", str(file), "--out", str(out), "--no-browser"]
    assert main([*words, "--no-examples"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert opened == []
    assert "text 3" not in out.read_text(encoding="utf-8")
    assert main(words) == 2
    assert main([*words, "--overwrite"]) == 0
    assert "text 3" in out.read_text(encoding="utf-8")


def test_an_unknown_column_is_refused(file, opened):
    assert main(["view", str(file), "--example-column", "none"]) == 2
    assert opened == []
