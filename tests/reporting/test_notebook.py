"""Notebook display of scores and reports."""

import os
import pickle
from html.parser import HTMLParser
from pathlib import Path

from bayeslora.metrics.compare import compare
from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.scores import Scores
from bayeslora.reporting.report import Report


class Tags(HTMLParser):
    """Collects the tags of an HTML fragment with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def test_scores_are_a_table_with_every_score(make):
    far = make("m", rows=20, labelled=False, seed=5)
    scores = evaluate(make("m"), {"<b>far</b>": far}, num_resamples=5)
    html = scores._repr_html_()
    assert "<b>" not in html
    assert Scores.from_json(scores.to_json())._repr_html_() == html
    read = Tags(html)
    assert len([tag for tag, _ in read.tags if tag == "tr"]) == 1 + len(scores) + 3
    nll = scores["nll"]
    assert f"{nll.value:.3f}" in read.text
    assert f"[{nll.low:.3f}, {nll.high:.3f}]" in read.text
    assert any("<b>far</b> (20 rows) by" in text for text in read.text)
    assert read.text[0] == "m: 240 labelled of 240 rows, 15 bins"


def test_predictions_are_a_table_of_their_first_rows(make):
    evil = "<script>x</script>\u202e"
    for rows in (3, 240):
        made = make("m", rows=rows).replace(name=evil, classes=(evil, "b", "c", "d"))
        html = made._repr_html_()
        read = Tags(html)
        assert len([tag for tag, _ in read.tags if tag == "tr"]) == 1 + min(rows, 10)
        assert f"{rows} rows" in read.text[0]
        assert f"{made[0].confidence:.3f}" in read.text
        assert "<script" not in html
        assert "\u202e" not in html
    bare = made.replace(labels=None, ids=None, epistemic=None)
    assert "label" not in Tags(bare._repr_html_()).text


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
    read = Tags(page._repr_html_())
    [(tag, attributes)] = read.tags
    assert tag == "iframe"
    assert attributes["srcdoc"] == page.read_text(encoding="utf-8")
    assert "allow-same-origin" not in attributes["sandbox"]
    assert attributes["title"] == str(page)


def test_a_comparison_is_a_short_line_and_a_table(make):
    comparison = compare(
        [make("<b>one</b>"), make("two", sharpness=2.0)], num_resamples=20, num_permutations=19
    )
    assert len(repr(comparison)) < 200
    assert "two" in repr(comparison)
    html = comparison._repr_html_()
    read = Tags(html)
    assert "<b>" not in html
    assert len([tag for tag, _ in read.tags if tag == "tr"]) == 3
    row = next(row for row in comparison.rows if row.name != comparison.reference)
    value, ends = row.differences["nll"].said()
    assert any(f"{value} {ends}" in text and "p = " in text for text in read.text)


def test_print_shows_the_main_scores_on_a_screen(make):
    ood = {f"set {k}": make("m", labelled=False, rows=30, seed=k) for k in range(20)}
    scores = evaluate(make("m"), ood, num_resamples=5)
    lines = str(scores).splitlines()
    assert len(lines) <= 30
    assert f"nll             {scores['nll'].value:.3f}" in str(scores)
    assert f"All {len(scores)} scores" in lines[-1]
