"""The study of several tasks: its arms across tasks, and what its tables compare."""

from dataclasses import replace

import pytest
from tiny import tiny_bert, toy_rows

from bayeslora.backbones.load import load_backbone
from bayeslora.data.read import read
from bayeslora.data.union import TASK
from benchmarks.lib.results import Results
from benchmarks.multi_task import __main__ as study
from benchmarks.multi_task import report

TASKS = ("topic", "animal")


def about_animals(n, seed):
    return [
        {**row, "label": "yes" if row["label"] == "animals" else "no"} for row in toy_rows(n, seed)
    ]


@pytest.fixture(scope="module")
def splits():
    counts = {"train": 24, "validation": 8, "test": 12}
    return {
        split: {
            "topic": read(toy_rows(count, seed)),
            "animal": read(about_animals(count // 2, seed + 5)),
        }
        for seed, (split, count) in enumerate(counts.items())
    }


def test_across_tasks_an_arm_is_the_fit_of_one_task_with_all_classes(splits, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "EPOCHS", 2)
    backbone = load_backbone(str(tiny_bert(tmp_path / "bert")), dtype="float32", device="cpu")
    arm = study.ARMS["lora across"]
    rows = study.together(splits, TASKS, across=True)
    assert rows.train.available() is None
    assert study.together(splits, TASKS).train.available() is not None

    def as_one(examples):
        return replace(examples, further={TASK: ("all",) * len(examples)})

    whole = replace(
        rows,
        **{split: as_one(getattr(rows, split)) for split in splits},
        tasks={"all": len(rows.classes)},
    )
    result, expected = (study.fit(backbone, arm, part, 0) for part in (rows, whole))
    assert result["factor"] == expected["factor"]
    for by_task, one_task in zip(result["epochs"], expected["epochs"], strict=True):
        for score in ("accuracy", "nll"):  # 12 rows of one task, 6 of the other
            mean = (2 * by_task["topic"][score] + by_task["animal"][score]) / 3
            assert mean == pytest.approx(one_task["all"][score], rel=1e-6)
        for scores in by_task.values():
            assert scores["accuracy"] == scores["accuracy_among_all"]


def test_arms_across_tasks_are_compared_with_each_other_alone(tmp_path):
    results = Results(tmp_path, study.KEY)
    accuracies = {"lora": 0.9, "emtal+retaining": 0.9, "lora across": 0.5}
    for seed in range(3):
        for arm, accuracy in (accuracies | {"emtal+retaining across": 0.6 + 0.1 * seed}).items():
            scores = {"accuracy": accuracy, "nll": 1.0, "ece": 0.1, "accuracy_among_all": 0.5}
            row = {"epochs": [{"topic": scores}], "scaled": {"topic": scores}}
            results.append({"arm": arm, "seed": seed, **row})
    claims = {claim.text: claim for claim in report.claims(tmp_path) if claim.gains}
    across = [claim for text, claim in claims.items() if "across" in text]
    assert [claim.gains for claim in across] == [pytest.approx((0.1, 0.2, 0.3))]
    report.write_report(results, tmp_path, study.ARMS)
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "| emtal+retaining across | lora across | 0.200" in text
    assert "Not run: lora+retaining, emtal, " in text


def test_arms_have_other_adapters_or_losses_or_classes():
    assert len({repr(arm) for arm in study.ARMS.values()}) == len(study.ARMS)
    for name, arm in study.ARMS.items():
        assert arm.across == name.endswith(" across")
        assert arm.retains == ("+retaining" in name)
