"""Predictions of other tools on the command line: converted, scored, compared, without labels."""

import json

import numpy as np
import pytest
from cli_files import fake

from bayeslora.metrics.evaluate import evaluate
from bayeslora.predictions.record import Predictions


def sample_log(folder, *, shift=0.0, rows=12):
    """Write a multiple-choice log as the harness does; return its path."""
    generator = np.random.default_rng(0)
    path = folder / "samples_toy_2026-01-31T10-20-30.5.jsonl"
    lines = []
    for row in range(rows):
        scores = generator.normal(size=3) * 2 + shift * np.arange(3)
        options = ["a dog", "a bird", "a large horse"]
        lines.append(
            {
                "doc_id": row,
                "doc": {"question": f"Question {row}?", "source": "ab"[row % 2]},
                "target": str(row % 3),
                "arguments": {
                    f"gen_args_{k}": {"arg_0": f"Question {row}?", "arg_1": f" {option}"}
                    for k, option in enumerate(options)
                },
                "filtered_resps": [[str(score), "False"] for score in scores],
                "filter": "none",
                "acc": float(scores.argmax() == row % 3),
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_sample_log_is_scored_and_compared_as_it_is(run, tmp_path):
    files = [sample_log(tmp_path / f"org__{name}", shift=k) for k, name in enumerate("pq")]
    content = json.loads(run("evaluate", files[0], "--json").out)
    lines = [json.loads(line) for line in files[0].read_text().splitlines()]
    accuracy = np.mean([line["acc"] for line in lines])
    assert content["scores"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert content["name"] == "p toy"
    table = run("compare", *files)
    assert table.code == 0
    assert "q toy" in table.out


def test_a_log_is_converted_with_its_fields(run, refused, tmp_path):
    path, out = sample_log(tmp_path / "org__p"), tmp_path / "p.parquet"
    options = ["--keep", "source", "--keep", "question", "--normalise", "characters"]
    shown = run("convert", path, "--out", out, *options)
    assert shown.code == 0
    assert "12 rows, 12 of them labelled" in shown.out
    predictions = Predictions.load(out, columns=["source", "question"])
    expected = Predictions.from_lm_eval(path, normalise="characters")
    assert np.array_equal(predictions.probs, expected.probs)
    assert (predictions.name, predictions.metadata["normalise"]) == ("p toy", "characters")
    assert list(predictions.columns["source"][:2]) == ["a", "b"]
    assert "exists" in refused("convert", path, "--out", out)
    assert "did you mean 'source'" in refused(
        "convert", path, "--keep", "sauce", "--out", tmp_path / "o.csv"
    )


def test_logits_are_converted_to_probabilities_of_another_format(run, tmp_path):
    path, out = tmp_path / "p.csv", tmp_path / "q.jsonl"
    path.write_text("label,logit_a,logit_b\nb,0,0\n,1,1\n")
    content = json.loads(run("convert", path, "--out", out, "--name", "mine", "--json").out)
    assert content == {
        "file": str(out),
        "name": "mine",
        "n": 2,
        "n_labelled": 1,
        "classes": ["a", "b"],
    }
    assert Predictions.load(out).probs.tolist() == [[0.5, 0.5]] * 2
    assert run("evaluate", out).code == 0


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--normalise", "bytes"], ["is not a sample log", "filtered_resps"]),
        (["--keep", "label"], ["'label'"]),
    ],
)
def test_what_cannot_be_converted_is_refused(refused, tmp_path, options, parts):
    path = fake(tmp_path / "p.jsonl")
    message = refused("convert", path, "--out", tmp_path / "o.parquet", *options)
    for part in parts:
        assert part in message


@pytest.fixture
def unlabelled(tmp_path):
    """Write predictions without labels, in two formats, and an out-of-distribution set."""
    return {
        "a": fake(tmp_path / "a.parquet", seed=1, outside=True),
        "b": fake(tmp_path / "b.jsonl", seed=2, outside=True),
        "far": fake(tmp_path / "far.parquet", seed=3, outside=True, sharp=0.2),
    }


def test_without_labels_uncertainty_and_detection_are_scored(run, unlabelled):
    ood = ["--ood", f"far={unlabelled['far']}", "--ood-score", "max_probability"]
    content = json.loads(run("evaluate", unlabelled["b"], *ood, "--json").out)
    assert content["n_labelled"] == 0
    assert set(content["scores"]) == {"mean_confidence", "sharpness"}
    expected = evaluate(
        unlabelled["b"], {"far": unlabelled["far"]}, ood_score="max_probability"
    ).ood["far"]
    assert content["ood"]["far"]["auroc"]["value"] == expected.auroc.value
    shown = run("evaluate", unlabelled["b"], *ood)
    assert shown.code == 0
    assert "far" in shown.out
