"""Notebook display of scores and reports."""

import os
import pickle
import re
from html import unescape
from pathlib import Path

from bayeslora.metrics.compare import compare
from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.scores import Scores
from bayeslora.reporting.report import Report


def test_scores_are_a_table_with_every_score(make):
    far = make("m", rows=20, labelled=False, seed=5)
    scores = evaluate(make("m"), ood={"<b>far</b>": far}, num_resamples=5)
    html = scores._repr_html_()
    assert "<b>" not in html
    assert Scores.from_json(scores.to_json())._repr_html_() == html
    assert html.count("<tr>") == 1 + len(scores) + 3
    nll = scores["nll"]
    assert f"<td>{nll.value:.3f}</td><td>[{nll.low:.3f}, {nll.high:.3f}]</td>" in html
    assert "<b>far</b> (20 rows) by" in unescape(html)
    assert "<caption>m: 240 labelled of 240 rows, 15 bins</caption>" in html


def test_predictions_are_a_table_of_their_first_rows(make):
    evil = "<script>x</script>\u202e"
    for rows in (3, 240):
        made = make("m", rows=rows).replace(name=evil, classes=(evil, "b", "c", "d"))
        html = made._repr_html_()
        assert html.count("<tr>") == 1 + min(rows, 10)
        assert f"{rows} rows" in html
        assert f"<td>{made[0].confidence:.3f}</td>" in html
        assert "<script" not in html
        assert "\u202e" not in html
    bare = made.replace(labels=None, ids=None, epistemic=None)
    assert ">label<" not in bare._repr_html_()


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


def test_a_comparison_is_a_short_line_and_a_table(make):
    comparison = compare(
        [make("<b>one</b>"), make("two", sharpness=2.0)], num_resamples=20, num_permutations=19
    )
    assert len(repr(comparison)) < 200
    assert "two" in repr(comparison)
    html = comparison._repr_html_()
    assert "<b>" not in html
    assert html.count("<tr>") == 3
    row = next(row for row in comparison.rows if row.name != comparison.reference)
    value, ends = row.differences["nll"].said()
    assert f"{value} {ends} p = " in html


def test_print_shows_the_main_scores_on_a_screen(make):
    ood = {f"set {k}": make("m", labelled=False, rows=30, seed=k) for k in range(20)}
    scores = evaluate(make("m"), ood=ood, num_resamples=5)
    lines = str(scores).splitlines()
    assert len(lines) <= 30
    assert f"nll             {scores['nll'].value:.3f}" in str(scores)
    assert f"All {len(scores)} scores" in lines[-1]
