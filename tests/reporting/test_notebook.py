"""Notebook display of scores and reports."""

import os
import pickle
import re
from html import unescape
from pathlib import Path

from bayeslora.metrics.compare import compare
from bayeslora.metrics.evaluate import evaluate
from bayeslora.reporting.report import Report


def test_a_report_is_the_path_of_its_page(made):
    page = Report(made / "index.html")
    assert isinstance(page, os.PathLike | Path)
    assert str(page) == f"{page}" == os.fspath(page) == str(made / "index.html")
    assert page == made / "index.html"
    assert hash(page) == hash(made / "index.html")
    assert page.with_name("scores.json").is_file()
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert pickle.loads(pickle.dumps(page)) == page


def test_a_report_shows_its_page_in_a_frame(made):
    page = Report(made / "index.html")
    html = page._repr_html_()
    assert html.startswith(f'<iframe title="{page}" sandbox="allow-scripts"')
    [source] = re.findall('srcdoc="([^"]*)"', html)
    assert unescape(source) == page.read_text(encoding="utf-8")


def test_a_comparison_is_a_short_line(make):
    comparison = compare(
        [make("<b>one</b>"), make("two", sharpness=2.0)], num_resamples=20, num_permutations=19
    )
    assert len(repr(comparison)) < 200
    assert "two" in repr(comparison)


def test_print_shows_the_main_scores_on_a_screen(make):
    ood = {f"set {k}": make("m", labelled=False, rows=30, seed=k) for k in range(20)}
    scores = evaluate(make("m"), ood=ood, num_resamples=5)
    lines = str(scores).splitlines()
    assert len(lines) <= 30
    assert f"nll             {scores['nll'].value:.3f}" in str(scores)
    assert f"All {len(scores)} scores" in lines[-1]
