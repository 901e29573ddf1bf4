"""transformers' decision pipeline applies the temperatures that were fitted to its answers."""

import json

import numpy as np
import pytest
from tiny import TOPICS, lettered_llama

from bayeslora import Predictions
from bayeslora.cli import main

pytest.importorskip("transformers.decision")  # of 5.24

QUESTIONS = {
    "wild": {"type": "noul", "instructions": "Question"},
    "topic": {"type": "choice", "instructions": "Pick", "criteria": dict.fromkeys(TOPICS)},
    "tasty": {"type": "score", "instructions": "Pick", "criteria": ["salty", "fresh"]},
}
LABELS = {"choice": ["A", "B", "C"], "score": ["A", "B"], "noul": ["C", "D"]}
NUM_STATES = 60


def write_answers(path, model):
    """Write a model's answers, with labels drawn from them at three times the temperature."""
    from transformers import pipeline

    decide = pipeline("decision", model=str(model), device="cpu")
    words = [word for topic in TOPICS.values() for word in topic]
    chance = np.random.default_rng(0)
    with path.open("w") as out:
        for row in range(NUM_STATES):
            state = " ".join(chance.choice(words, 5))
            answers, labels = decide({"state": state, "questions": QUESTIONS}), {}
            for name, answer in answers.items():
                true = answer.get("noul", 0.5)
                probs = answer.get("probabilities", {"true": true, "false": 1 - true})
                softer = np.array([*probs.values()]) ** (1 / 3)
                labels[name] = str(chance.choice([*probs], p=softer / softer.sum()))
            line = {"id": f"s{row}", "state": state, "answers": answers, "labels": labels}
            out.write(json.dumps(line) + "\n")
    return Predictions.read(path, columns=["type"])


@pytest.mark.parametrize("temperatures", [{}, {"choice": 2.5, "noul": 0.5}], ids=["none", "two"])
def test_the_pipeline_gives_our_probabilities(tmp_path, temperatures, capsys):
    model = lettered_llama(tmp_path / "model", initializer_range=0.25)
    (model / "chat_template.jinja").write_text("{{ messages[0]['content'] }} Answer :")
    config, answers = model / "decision.json", tmp_path / "answers.jsonl"
    config.write_text(json.dumps({"labels": LABELS, "temperature": temperatures}))
    before = write_answers(answers, model)
    words = ["recalibrate", "--fit", answers, "--save", config, "--overwrite"]
    assert main([*map(str, words)]) == 0
    capsys.readouterr()
    content = json.loads(config.read_text())
    assert content["labels"] == LABELS
    after = write_answers(tmp_path / "after.jsonl", model)
    for kind, temperature in content["bayeslora"]["fitted"].items():
        rows = before.columns["type"] == kind
        assert rows.sum() == NUM_STATES
        ours = before.probs[rows] ** (1 / temperature)
        ours /= ours.sum(1, keepdims=True)
        np.testing.assert_allclose(after.probs[rows], ours, atol=1e-6)
        assert np.abs(after.probs[rows] - before.probs[rows]).max() > 0.01
