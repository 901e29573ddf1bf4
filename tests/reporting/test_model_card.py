"""The reliability section and the metadata of a Hugging Face model card."""

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard

from bayeslora.errors import InputError
from bayeslora.metrics.evaluate import evaluate
from bayeslora.reporting.model_card import (
    END,
    START,
    model_card_section,
    read_card,
    update_model_card,
)

FRONT = """---
license: mit  # as agreed
tags: [a, "b: c"]
base_model: "x/y"

# where it learned
datasets:
- ag_news
---
"""
TEXT = "# A model\n\nIt sorts.  \n\n```yaml\nmodel-index: no\n---\n```\n"


@pytest.fixture(scope="module")
def scores(make):
    far = make("m", rows=40, labelled=False, seed=2, signal=0.3)
    return evaluate(make("m", sharpness=3.0), ood={"far | off": far}, num_resamples=20)


KEY = "model-index"


@pytest.fixture
def card(tmp_path):
    path = tmp_path / "my-model" / "README.md"
    path.parent.mkdir()
    path.write_text(FRONT + TEXT)
    return path


def test_the_hub_reads_the_metadata(card, scores):
    update_model_card(card, scores, dataset="AG News", dataset_type="fancyzhx/ag_news")
    data = ModelCard.load(card).data
    assert data.model_name == "my-model"
    assert data.license == "mit"
    assert all(isinstance(result, EvalResult) for result in data.eval_results)
    assert {
        (result.task_type, result.dataset_type, result.dataset_name) for result in data.eval_results
    } == {("text-classification", "fancyzhx/ag_news", "AG News")}
    values = {result.metric_type: result for result in data.eval_results}
    for kind, key in (("accuracy", "accuracy"), ("brier_score", "brier"), ("ece", "ece")):
        assert values[kind].metric_value == pytest.approx(scores[key].value, abs=5e-7)
    assert values["ece"].metric_args == {"num_bins": 15}
    assert values["roc_auc"].metric_value == pytest.approx(
        scores.ood["far | off"].auroc.value, abs=5e-7
    )
    [entry] = yaml.safe_load((card.parent / ".eval_results/fancyzhx--ag_news.yaml").read_text())
    assert entry["dataset"]["id"] == "fancyzhx/ag_news"
    assert entry["value"] == pytest.approx(scores["accuracy"].value, abs=5e-7)


def test_everything_else_keeps_its_value(card, scores):
    update_model_card(card, scores)
    _, front, text = card.read_text().split("---\n", 2)
    metadata = yaml.safe_load(front)
    del metadata[KEY]
    assert metadata == yaml.safe_load(FRONT.strip("-\n"))
    assert text.split("\n" + START)[0] == TEXT
    assert text.endswith(END + "\n")


def test_new_scores_replace_the_old_ones_where_they_stand(card, scores, make):
    update_model_card(card, scores)
    card.write_text(card.read_text() + "\n## Licence\n")
    other = evaluate(make("m", sharpness=1.0), num_resamples=20)
    update_model_card(card, other)
    text = card.read_text()
    assert text.count(START) == text.count(END) == text.count(f"\n{KEY}:\n") == 1
    assert text.endswith(END + "\n\n## Licence\n")
    assert "Overconfident by" not in text
    values = {
        result.metric_type: result.metric_value for result in ModelCard.load(card).data.eval_results
    }
    assert values["nll"] == pytest.approx(other["nll"].value, abs=5e-7)


def test_results_of_others_stay(card, scores):
    entry = {"task": {"type": "text-classification"}, "dataset": {"type": "d", "name": "D"}}
    theirs = [
        {"name": "my-model", "results": [{**entry, "metrics": [{"type": "f1", "value": 0.5}]}]}
    ]
    card.write_text(f"---\n{yaml.safe_dump({KEY: theirs})}# a remark\nlicense: mit\n---\n{TEXT}")
    update_model_card(card, scores, dataset="D", dataset_type="d")
    update_model_card(card, scores, dataset="E")
    front = card.read_text().split("---\n")[1]
    assert yaml.safe_load(front)["license"] == "mit"
    [mine] = yaml.safe_load(front)[KEY]
    assert [result["dataset"]["name"] for result in mine["results"]] == ["D", "E"]
    assert mine["results"][0]["metrics"][0] == {"type": "f1", "value": 0.5}
    assert len(mine["results"][0]["metrics"]) == 1 + len(mine["results"][1]["metrics"])


@pytest.mark.parametrize(
    "text",
    ["", "no front matter", "---\n---\n# x\n", "---\r\nlicense: mit\r\n---\r\n# x\r\n", "# x\n\n"],
)
def test_any_card_can_be_filled(tmp_path, scores, text):
    card = tmp_path / "README.md"
    card.write_bytes(text.encode())
    update_model_card(card, scores, model="m")
    content = card.read_bytes().decode()
    assert ModelCard(content).data.model_name == "m"
    assert content.count(START) == 1


def test_the_section_says_what_was_measured(scores):
    text = model_card_section(scores, dataset="AG | News <b>")
    assert text.startswith(START)
    assert text.endswith(END)
    assert "Measured on 240 labelled examples (AG \\| News &lt;b&gt;), 4 classes, 15 bins" in text
    assert f"| Accuracy ↑ | {scores['accuracy'].value:.3f} |" in text
    assert "Overconfident by" in text
    assert "| far \\| off | " in text
    assert " | 40 | " in text
    assert text.count("| 0.") >= sum(bin_.count > 0 for bin_ in scores.bins)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff", "cannot be read"),
        (START.encode(), "expected one"),
        (b"---\na: [1\n---\n", "metadata cannot be read"),
        (b"---\n[a, 1]\n---\n", "metadata cannot be read"),
        (b"---\nmodel-index: 3\n---\n", "metadata cannot be read"),
    ],
)
def test_cards_that_cannot_be_updated_are_named(tmp_path, scores, content, words):
    card = tmp_path / "README.md"
    card.write_bytes(content)
    for call in (lambda: read_card(card), lambda: update_model_card(card, scores)):
        with pytest.raises(InputError, match=words):
            call()
    assert card.read_bytes() == content
