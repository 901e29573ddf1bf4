"""Answers of decision models are read as predictions."""

import json
import logging

import numpy as np
import pytest
from refusal import refused

import bayeslora as bl
from bayeslora import Predictions
from bayeslora.cli import main

CRITERIA = {"billing": "Payments", "bug": None, "sales": None}
SYSTEM_ONE = {
    "refund": {"type": "noul", "noul": 0.8},
    "team": {
        "type": "choice",
        "choice": "bug",
        "confidence": 0.55,
        "probabilities": {"billing": 0.2, "bug": 0.7, "sales": 0.1},
    },
    "urgency": {
        "type": "score",
        "score": 1.3,
        "legend": {"0": "low", "1": "middle", "2": "high"},
        "probabilities": {"0": 0.1, "1": 0.5, "2": 0.4},
    },
}
OPENAI = [
    {"type": "predicate", "name": "refund", "probability": 0.8},
    {
        "type": "choice",
        "name": "team",
        "choice": "bug",
        "confidence": 0.6,
        "probabilities": [
            {"value": "billing", "probability": 0.2},
            {"value": "bug", "probability": 0.7},
            {"value": "sales", "probability": 0.1},
        ],
    },
    {
        "type": "score",
        "name": "urgency",
        "score": 1.3,
        "probabilities": [
            {"value": level, "label": label, "probability": prob}
            for level, (label, prob) in enumerate([("low", 0.1), ("middle", 0.5), ("high", 0.4)])
        ],
    },
]
LABELS = {"refund": True, "team": "bug", "urgency": "high"}
ROW = [0.1, 0.5, 0.4]


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def load(tmp_path, lines, *columns):
    return Predictions.read(write(tmp_path / "answers.jsonl", lines), columns=columns)


def choice(probs, **more):
    return {"type": "choice", "probabilities": probs, "choice": max(probs, key=probs.get), **more}


@pytest.mark.parametrize(
    "line",
    [
        {"state": "Twice!", "answers": SYSTEM_ONE},
        {"state": "Twice!", "answers": OPENAI, "model": "m", "usage": {"total_tokens": 3}},
        {"request": {"state": "Twice!"}, "response": {"answers": SYSTEM_ONE, "model": "m"}},
        {"input": "Twice!", "response": {"status_code": 200, "body": {"answers": OPENAI}}},
    ],
    ids=["system-one", "openai", "exchange", "batch"],
)
def test_lines_of_every_kind(tmp_path, line):
    rows = load(tmp_path, [line | {"labels": LABELS, "id": 7}], "question", "type", "state")
    assert rows.classes == ("0", "1", "2", "billing", "bug", "false", "sales", "true")
    np.testing.assert_allclose(rows.probs[0, [5, 7]], [0.2, 0.8], rtol=1e-12)
    np.testing.assert_allclose(rows.probs[1, [3, 4, 6]], [0.2, 0.7, 0.1], rtol=1e-12)
    np.testing.assert_allclose(rows.probs[2, :3], ROW, rtol=1e-12)
    assert rows.num_options.tolist() == [2, 3, 3]
    assert [rows.classes[label] for label in rows.labels] == ["true", "bug", "2"]
    assert rows.ids == ("7/refund", "7/team", "7/urgency")
    assert [*rows.columns["question"]] == ["refund", "team", "urgency"]
    assert [*rows.columns["type"]] == ["noul", "choice", "score"]
    assert {*rows.columns["state"]} == {"Twice!"}
    assert not rows.scores


@pytest.mark.parametrize(
    ("label", "name"),
    [(True, "true"), ("no", "false"), (1, "true"), (0.0, "false"), ("TRUE", "true")],
)
def test_labels_of_yes_or_no(tmp_path, label, name):
    line = {"answers": {"spam": {"type": "noul", "noul": 0.25}}}
    rows = load(tmp_path, [line | {"label": label}, line])
    assert rows.classes == ("false", "true")
    assert rows.labels.tolist() == [rows.classes.index(name), -1]


@pytest.mark.parametrize("label", [2, 2.0, "2", "high"])
def test_labels_of_levels(tmp_path, label):
    line = {"answers": {"urgency": SYSTEM_ONE["urgency"]}, "label": label}
    assert load(tmp_path, [line]).labels.tolist() == [2]


def test_the_vendors_confidence_is_only_a_column(tmp_path):
    rows = load(tmp_path, [{"answers": SYSTEM_ONE}], "vendor_confidence")
    assert [*rows.columns["vendor_confidence"]] == [None, "0.55", None]
    np.testing.assert_allclose(rows.confidence, [0.8, 0.7, 0.5])


def test_refusals_are_left_out_and_counted(tmp_path, caplog):
    refusal = {"team": {"type": "refusal"}, "refund": SYSTEM_ONE["refund"]}
    blocked = {"prompt_feedback": {"block_reason": "SAFETY"}, "labels": {"refund": True}}
    lines = [blocked, {"answers": refusal, "labels": {"team": "bug"}}]
    with caplog.at_level(logging.WARNING):
        rows = load(tmp_path, lines)
    assert len(rows) == 1
    assert rows.metadata["refused"] == "2 of 3"
    assert "2 of 3 questions were refused" in caplog.text
    with refused("input", "1 question"):
        load(tmp_path, [{"answers": [{"type": "refusal"}]}])


@pytest.mark.parametrize(
    "mass",
    [
        {"answers": {"team": choice({"a": 0.3, "b": 0.1})}},
        {"answers": {"team": choice({"a": 0.75, "b": 0.25}, option_mass=0.4)}},
        {
            "answers": {"team": choice({"a": 0.75, "b": 0.25})},
            "diagnostics": {"team": {"label_mass": 0.4}},
        },
    ],
)
def test_label_mass_is_a_score_and_a_note(tmp_path, mass, caplog):
    with caplog.at_level(logging.WARNING):
        rows = load(tmp_path, [mass, {"answers": {"team": choice({"a": 0.5, "b": 0.5})}}])
    np.testing.assert_allclose(rows.probs, [[0.75, 0.25], [0.5, 0.5]], rtol=1e-12)
    np.testing.assert_allclose(rows.scores["outside"], [0.6, 0], atol=1e-12)
    assert rows.metadata["label_mass"] == "0.7000"
    assert "30.0 % of the mass" in caplog.text


def test_order_flips(tmp_path, caplog):
    first, second = {"a": 0.6, "b": 0.4}, {"b": 0.7, "a": 0.3}
    lines = [
        {"id": "x", "state": "s", "answers": {"q": choice(first), "r": choice(first)}},
        {"id": "x", "state": "s", "answers": {"q": choice(second), "r": choice(first)}},
        {"id": "y", "state": "t", "answers": {"q": choice(first)}},
        {"id": "y", "state": "t", "answers": {"q": choice({"b": 0.4, "a": 0.6})}},
        {"id": "z", "state": "u", "answers": {"q": choice(second)}},
    ]
    with caplog.at_level(logging.WARNING):
        rows = load(tmp_path, lines)
    assert rows.metadata["order_flips"] == "1 of 2"
    assert "1 of 2 questions depend on the order" in caplog.text
    assert rows.ids == ("x/q", "x/r", "x/q#2", "x/r#2", "y", "y#2", "z")
    with refused("input", "row 2"):
        load(tmp_path, [lines[0], lines[0]])


def test_the_order_is_that_of_the_request(tmp_path):
    ask = {"type": "choice", "criteria": {"b": None, "a": None}}
    line = {"state": "s", "answers": {"q": choice({"a": 0.6, "b": 0.4})}}
    assert "order_flips" in load(tmp_path, [line, line | {"questions": {"q": ask}}]).metadata
    listed = {"name": "q", "choices": [{"value": "b"}, {"value": "a"}]}
    assert "order_flips" in load(tmp_path, [line, line | {"questions": [listed]}]).metadata
    assert "order_flips" not in load(tmp_path, [line, line]).metadata


def test_options_that_differ_by_row_are_letters(tmp_path):
    lines = [
        {"answers": {"q": choice({f"x{k}": 0.2, f"y{k}": 0.8}), "ok": SYSTEM_ONE["refund"]}}
        | {"labels": {"q": f"y{k}"}}
        for k in range(3)
    ]
    lines.append({"answers": {"q": choice({"u": 0.1, "v": 0.2, "w": 0.7})}, "label": "u"})
    rows = load(tmp_path, lines)
    assert rows.classes == ("A", "B", "C", "false", "true")
    assert rows[0].probs == {"A": 0.2, "B": 0.8}
    assert rows.labels[[0, 2, 4, 6]].tolist() == [1, 1, 1, 0]
    some = [{"a": 0.5, "b": 0.5}, {"b": 0.4, "c": 0.6}, {"a": 0.1, "c": 0.9}]
    rows = load(tmp_path, [{"answers": {"q": choice(probs)}} for probs in some])
    assert rows.classes == ("a", "b", "c")


@pytest.mark.parametrize(
    "line",
    [
        {"answers": {}},
        {"answers": None},
        {"answers": {"q": {"type": "essay"}}},
        {"answers": {"q": {"type": "noul"}}},
        {"answers": {"q": {"type": "noul", "noul": "0.5"}}},
        {"answers": {"q": {"type": "noul", "noul": 1.5}}},
        {"answers": {"q": {"type": "choice", "choice": "a", "confidence": 0.9}}},
        {"answers": {"q": choice({"a": 1.0})}},
        {"answers": {"q": choice({"a": 0.0, "b": 0.0})}},
        {"answers": {"q": choice({"a": 0.8, "b": 0.8})}},
        {"answers": {"q": choice({"a": 0.5, "b": 0.5}, label_mass="all")}},
        {"answers": {"q": choice({"a": 0.5, "b": 0.5})}, "label": "c"},
        {"answers": {"q": choice({"a": 0.5, "b": 0.5})}, "labels": {"p": "a"}},
        {"answers": {"q": choice({"a": 0.5, "b": 0.5})}, "labels": "a"},
        {"answers": SYSTEM_ONE, "label": "bug"},
        {"answers": [OPENAI[0], OPENAI[0]]},
    ],
)
def test_wrong_lines_are_refused_by_row(tmp_path, line):
    with refused("input", "row 2"):
        load(tmp_path, [{"answers": SYSTEM_ONE}, line])


def simulated(seed, rows=80):
    """Return lines whose answers are overconfident by a factor of 3 for choices, 1.5 for others."""
    chance = np.random.default_rng(seed)
    lines = []
    for row in range(rows):
        answers, labels = {}, {}
        for question, names, factor in (
            ("team", [*CRITERIA], 3.0),
            ("refund", ["true", "false"], 1.5),
            ("urgency", ["0", "1", "2"], 1.5),
        ):
            logits = chance.normal(size=len(names))
            true, stated = (np.exp(logits * scale) for scale in (1, factor))
            labels[question] = str(chance.choice(names, p=true / true.sum()))
            probs = dict(zip(names, (stated / stated.sum()).tolist(), strict=True))
            answers[question] = {**SYSTEM_ONE[question], "noul": probs.get("true")}
            if "true" not in probs:
                answers[question]["probabilities"] = probs
        lines.append({"id": f"{seed}-{row}", "state": f"{seed} {row}", "answers": answers})
        lines[-1]["labels"] = labels
    return lines


def test_every_verb_reads_answers(tmp_path, capsys):
    fit, new = (write(tmp_path / f"{seed}.jsonl", simulated(seed)) for seed in (0, 1))
    scores = bl.evaluate(fit, cluster_by="state", group_by="type")
    assert scores.n == 240
    assert {*scores.groups["type"]} == {"noul", "choice", "score"}
    assert main(["recalibrate", "--fit", str(fit), "--apply", str(new), "--out", f"{fit}.csv"]) == 0
    assert main(["decide", str(fit), "--risk", "0.5", "--set", "by=type"]) == 0
    assert main(["report", str(fit), "--out", str(tmp_path / "report")]) == 0
    capsys.readouterr()


def test_decision_json_has_a_temperature_per_type(tmp_path, capsys):
    fit, new = (write(tmp_path / f"{seed}.jsonl", simulated(seed)) for seed in (0, 1))
    model, out = tmp_path / "decision.json", tmp_path / "new.parquet"
    words = ["recalibrate", "--fit", fit, "--save", model]
    model.write_text('{"temperature": {"choice": 2.0}, "noul_options": ["false", "true"]}')
    assert main([*map(str, words)]) == 2  # exists
    assert main([*map(str, [*words, "--overwrite", "--apply", new, "--out", out])]) == 0
    content = json.loads(model.read_text())
    fitted = content["bayeslora"]["fitted"]
    assert 2 < fitted["choice"] < 4.5
    assert content["temperature"] == fitted | {"choice": 2 * fitted["choice"]}
    assert content["noul_options"] == ["false", "true"]
    assert content["bayeslora"]["rows"] == {"choice": 80, "noul": 80, "score": 80}
    before, after = (Predictions.read(path, columns=["type"]) for path in (new, out))
    for kind, temperature in fitted.items():
        rows = before.columns["type"] == kind
        expected = before.probs[rows] ** (1 / temperature)
        expected /= expected.sum(1, keepdims=True)
        np.testing.assert_allclose(after.probs[rows], expected, atol=1e-12)
    capsys.readouterr()
    assert main([*map(str, [*words, "--overwrite"])]) == 2  # its own temperatures
    model.unlink()
    assert main([*map(str, [*words, "--method", "vector"])]) == 2
    for content in ('{"temperature": 2}', '{"temperature": {"choice": 0}}', "[]"):
        model.write_text(content)
        assert main([*map(str, [*words, "--overwrite"])]) == 2
    table = tmp_path / "table.csv"
    table.write_text("label,prob_a,prob_b\na,0.5,0.5\n")
    assert main(["recalibrate", "--fit", str(table), "--save", str(tmp_path / model.name)]) == 2
    assert "BUG" not in capsys.readouterr().err
