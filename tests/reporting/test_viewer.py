"""The page to explore predictions: its data match the record, its numbers follow the filters."""

import json
import re

import numpy as np
import pytest

from bayeslora.metrics.calibration import reliability_bins, top_label
from bayeslora.reporting.viewer import view

WORDS = ("inning", "cipher", "patient", "engine")


def with_texts(make, name="m", **options):
    rows = options.get("rows", 240)
    texts = [f"a text about the {WORDS[row % 4]} number {row}" for row in range(rows)]
    source = [("web", "news")[row % 2] for row in range(rows)]
    return make(name, columns={"text": texts, "source": source}, **options)


def content_of(page):
    text = page.read_text(encoding="utf-8")
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(match[1])


def data_of(page):
    return content_of(page)["sources"]


def test_the_data_are_those_of_the_record(make, tmp_path):
    predictions = with_texts(make, spread=0.5)
    far = make("far", labelled=False, rows=30)
    inside, outside = data_of(view(predictions, ood={"far": far}, out=tmp_path / "v.html"))
    assert inside["confidence"] == predictions.confidence.tolist()
    assert inside["label"] == predictions.labels.tolist()
    assert inside["prediction"] == predictions.prediction.tolist()
    assert inside["text"] == list(predictions.columns["text"])
    assert set(inside["columns"]) == {"source"}
    label_probs = predictions.probs[np.arange(240), predictions.labels]
    assert inside["given"] == pytest.approx(label_probs.tolist(), abs=1e-6)
    assert len(inside["scores"]) == len(predictions.uncertainty_names)
    assert (outside["set"], outside["label"]) == ("far", None)


def test_files_bring_their_texts(make, tmp_path):
    path = tmp_path / "a.parquet"
    with_texts(make).save(path)
    [source] = data_of(view(path, ood=None, out=tmp_path / "v.html"))
    assert len(source["text"]) == 240
    [bare] = data_of(view(path, out=tmp_path / "v.html", examples=False))
    assert not {"text", "id", "columns"} & set(bare)


def test_nothing_ends_the_script_that_holds_the_data(make, tmp_path):
    hostile = "</script><script>alert(1)</script><!-- &amp; \u2028 \u202e"
    page = view(
        with_texts(make).replace(columns={"text": [hostile] * 240}), out=tmp_path / "v.html"
    )
    text = page.read_text(encoding="utf-8")
    assert text.count("</script>") == 2
    assert "alert(1)</script>" not in text
    assert "\u202e" not in data_of(page)[0]["text"][0]


# The page in a browser.


def tiles(page):
    return dict(
        page.locator("#tiles > div").evaluate_all(
            "all => all.map(one => [one.children[0].textContent, one.children[1].textContent])"
        )
    )


@pytest.fixture(scope="module")
def two(make, tmp_path_factory):
    """Return the predictions of the first of two methods, and their page."""
    first = with_texts(make, "first", sharpness=3.0, spread=0.5)
    second = with_texts(make, "second")
    far = {"first": {"far": make("far", labelled=False, rows=30, spread=0.5)}}
    page = view([first, second], ood=far, out=tmp_path_factory.mktemp("view") / "v.html")
    return first, page


def test_numbers_are_those_of_the_examples_that_are_left(two, visit):
    first, path = two
    page = visit(path)
    assert page.locator("#method").input_value() == "first"
    right = first.prediction == first.labels
    shown = tiles(page)
    assert shown["Examples"] == "240"
    assert shown["Accuracy"] == f"{100 * right.mean():.1f}\N{NO-BREAK SPACE}%"
    bins = reliability_bins(top_label(first.confidence, right), 15)
    ece = sum(b.count * abs(b.confidence - b.accuracy) for b in bins if b.count) / 240
    assert float(shown["ECE"]) == pytest.approx(ece, abs=0.0006)
    page.locator("#outcome").select_option("wrong")
    assert tiles(page)["Examples"] == str((~right).sum())
    page.locator("#column").select_option("source")
    page.locator("#value").select_option("web")
    assert tiles(page)["Examples"] == str((~right)[::2].sum())
    page.get_by_role("button", name="Clear filters").click()
    assert page.locator("#method").input_value() == "first"
    page.locator("#search").fill("CIPHER")
    assert tiles(page)["Examples"] == "60"
    assert page.locator("#rows tbody tr").count() == 50
    page.get_by_role("button", name="Next").click()
    assert page.locator("#rows tbody tr").count() == 10


def test_a_bin_shows_its_examples_by_click_and_by_key(two, visit):
    first, path = two
    page = visit(path)
    last = page.locator("#reliability .bin").last
    expected = (np.minimum(np.floor(first.confidence * 15), 14) == 14).sum()
    assert f"{expected} examples" in last.get_attribute("aria-label")
    last.locator(".hit").click()
    assert tiles(page)["Examples"] == str(expected)
    assert page.locator("#low").input_value() == "0.933"
    again = page.locator("#reliability .bin").last
    assert again.get_attribute("aria-pressed") == "true"
    again.press("Enter")
    assert tiles(page)["Examples"] == "240"


def test_the_threshold_says_what_is_left_to_a_person(two, visit):
    first, path = two
    page = visit(path)
    page.locator("#threshold").fill("0.9")
    answered = first.confidence >= 0.9
    wrong = first.prediction != first.labels
    text = page.locator("#abstention").text_content()
    assert f"{100 * answered.mean():.1f}\N{NO-BREAK SPACE}%" in text
    assert f"{100 * wrong[answered].mean():.1f}\N{NO-BREAK SPACE}%" in text
    assert f"{(~answered).sum()} examples" in text


def test_without_labels_the_workload_is_known_and_the_risk_is_not(make, tmp_path, visit):
    page = visit(view(with_texts(make, labelled=False), out=tmp_path / "v.html"))
    assert list(tiles(page)) == ["Examples", "Mean confidence"]
    assert "wrong" not in page.locator("#abstention").text_content()
    page.locator("#search").fill("no text has these words")
    assert list(tiles(page)) == ["Examples"]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_long_texts_and_names_fit_the_screen_without_a_serious_fault(
    make, tmp_path, visit, scheme, width
):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    classes = ("comp.os.ms-windows.misc", "rec.sport.baseball", "b" * 60, "sci.crypt")
    texts = ["a long text " * 40 + "x" * 120] * 240
    distances = {"middle_mahalanobis": np.zeros(240)}
    predictions = make("m", classes=classes, columns={"text": texts}, scores=distances)
    place = view(predictions, out=tmp_path / "v.html")
    page = visit(place, color_scheme=scheme, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#rows").bounding_box()["width"] <= width
    page.locator("#reliability .bin").last.press("Enter")
    violations = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    serious = [each for each in violations if each["impact"] in {"serious", "critical"}]
    assert [(each["id"], each["nodes"][0]["html"]) for each in serious] == []


def test_hostile_words_stay_words(make, tmp_path, visit):
    hostile = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
    strange = with_texts(make, hostile, classes=(hostile, "b", "c", "d"))
    columns = {"text": [hostile * 20] * 240, hostile: [hostile] * 240}
    path = view(strange.replace(columns=columns), out=tmp_path / "v.html", title=hostile)
    page = visit(path)
    page.locator("#column").select_option(index=1)
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    assert "<img src=x" in page.locator("#rows tbody").text_content()
