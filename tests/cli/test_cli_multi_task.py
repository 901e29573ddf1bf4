"""Several tasks from the command line: fit, predict and scores of each."""

import json

import pytest
from cli_files import write_rows
from tiny import toy_rows

SMALL = (
    *("--epochs", "1", "--batch-size", "16", "--max-length", "32", "--dtype", "float32"),
    *("--posterior", "mle", "--adapter", "lora:r=2,num_layers=2", "--quiet"),
)


def binary(n, seed=0):
    return [
        {**row, "label": "yes" if row["label"] == "animals" else "no"} for row in toy_rows(n, seed)
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    return {
        f"{task}-{split}": write_rows(folder / f"{task}-{split}.jsonl", make(n, seed))
        for task, make in (("topic", toy_rows), ("animal", binary))
        for split, n, seed in (("train", 24, 0), ("valid", 12, 1), ("test", 9, 2))
    }


def named(files, split, option="--multi-task"):
    chosen = [f"{task}={files[f'{task}-{split}']}" for task in ("topic", "animal")]
    return [word for value in chosen for word in (option, value)]


def test_a_model_of_several_tasks_from_fit_to_scores(run, world, files, tmp_path):
    model = tmp_path / "model"
    result = run(
        "fit", *named(files, "train"), *named(files, "valid", "--validation"), "--out", model,
        "--backbone", world.llama, *SMALL, "--quality-retaining", "on",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "animal" in result.out
    out = tmp_path / "p.parquet"
    result = run("predict", model, *named(files, "test"), "--out", out, "--json", "--quiet")
    assert result.code == 0, result.err
    summary = json.loads(result.out)
    assert {task: part["n"] for task, part in summary["tasks"].items()} == {"topic": 9, "animal": 9}
    result = run("evaluate", out, "--group-by", "task")
    assert result.code == 0, result.err
    assert "animal" in result.out
    mixed = [{**r, "task": "animal"} for r in binary(4, 5)] + [
        {**r, "task": "topic"} for r in toy_rows(4, 6)
    ]
    data = write_rows(tmp_path / "mixed.jsonl", mixed)
    result = run("predict", model, data, "--out", tmp_path / "m.csv", "--quiet")
    assert result.code == 0, result.err
    assert "topic" in result.out
    report = run("report", out, "--group-by", "task", "--out", tmp_path / "report", "--quiet")
    assert report.code == 0, report.err


def test_a_model_of_several_tasks_is_calibrated_and_exported(run, refused, world, files, tmp_path):
    model = tmp_path / "model"
    result = run("fit", *named(files, "train"), "--out", model, "--backbone", world.llama, *SMALL)
    assert result.code == 0, result.err
    again = tmp_path / "again"
    result = run(
        "calibrate", model, *named(files, "valid"), *named(files, "test", "--validation"),
        "--posterior", "laplace", "--out", again, "--quiet", "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert json.loads(result.out)["calibration"]["rows"] == 24
    assert run("export", again, "--format", "merged", "--out", tmp_path / "merged").code == 0
    assert "topic, animal" in (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")

    topic = files["topic-test"]
    for command in (
        ("predict", model, topic, "--out", tmp_path / "p.csv"),
        ("calibrate", model, topic, "--out", tmp_path / "c"),
    ):
        text = refused(*command)
        assert "--multi-task" in text
        assert "--keep" not in text
    for command in (
        ("calibrate", world.model, *named(files, "valid"), "--out", tmp_path / "c"),
        ("calibrate", model, "--out", tmp_path / "c"),
    ):
        refused(*command)


def test_across_tasks_rows_need_no_task(run, refused, world, files, tmp_path):
    model = tmp_path / "model"
    fit = ("fit", *named(files, "train"), "--out", model, "--backbone", world.llama, *SMALL)
    assert run(*fit, "--across-tasks").code == 0
    data = write_rows(tmp_path / "texts.jsonl", [{"text": row["text"]} for row in toy_rows(4, 6)])
    result = run("predict", model, data, "--out", tmp_path / "p.csv", "--quiet")
    assert result.code == 0, result.err
    out = tmp_path / "named.csv"
    result = run("predict", model, *named(files, "test"), "--out", out, "--quiet", "--json")
    assert {task: part["n"] for task, part in json.loads(result.out)["tasks"].items()} == {
        "topic": 9,
        "animal": 9,
    }
    single = ("fit", files["topic-train"], "--out", tmp_path / "one", "--backbone", world.llama)
    assert "--across-tasks" in refused(*single, *SMALL, "--across-tasks")


def test_known_tasks_come_without_repeats(run, world, files, tmp_path):
    folder = tmp_path / "sst2_sentences"
    folder.mkdir()
    rows = [
        {"id": row["id"], "question": row["text"], "answer_index": 0, "label": row["label"]}
        for row in binary(12)
    ]
    write_rows(folder / "train.jsonl", [*rows, {**rows[0], "id": "again"}])
    (folder / "classes.json").write_text('["no", "yes"]')
    model = tmp_path / "model"
    result = run(
        "fit", "--multi-task", "sst2=train", "--multi-task", f"topic={files['topic-train']}",
        "--data-dir", tmp_path, "--out", model, "--backbone", world.llama, "--adapter", "none",
        "--posterior", "map", "--max-length", "32", "--quiet",
    )  # fmt: skip
    assert result.code == 0, result.err
    record = json.loads((model / "bayeslora.json").read_text())
    assert record["num_train"] == 12 + 24
    assert record["dropped"] == {"train": {"sst2: repeated": 1}}


def test_tasks_stand_in_a_file_of_options(run, world, files, tmp_path):
    config = tmp_path / "fit.yaml"
    config.write_text(
        json.dumps(
            {
                "multi_task": {task: str(files[f"{task}-train"]) for task in ("topic", "animal")},
                "validation": {"animal": str(files["animal-valid"])},
                "quality_retaining": {"momentum": 0.5},
            }
        )
    )
    model = tmp_path / "model"
    options = ("--out", model, "--backbone", world.llama, *SMALL, "--json")
    result = run("fit", "--config", config, *options)
    assert result.code == 0, result.err
    assert json.loads(result.out)["validation_tasks"].keys() == {"animal"}
    record = json.loads((model / "bayeslora.json").read_text())
    assert record["tasks"] == {"topic": 3, "animal": 2}
    assert record["training"]["quality_retaining"]["momentum"] == 0.5


def test_bad_tasks_are_refused(refused, world, files, tmp_path):
    train, valid = named(files, "train"), files["topic-valid"]
    out = ("--out", tmp_path / "model", "--backbone", "/nowhere/at/all")
    colons = write_rows(
        tmp_path / "colons.jsonl",
        [{**row, "label": f"b: {row['label']}"} for row in toy_rows(9)],
    )
    for options, name in (
        ((*train, "--validation", f"colour={valid}"), "colour"),
        ((*train, "--validation", valid), "NAME=FILE"),
        ((*train[:2],), "topic"),
        ((*train, *train[:2]), "topic"),
        ((*train, files["topic-train"]), "TRAIN"),
        (("--multi-task", files["topic-train"]), "NAME=FILE"),
        (("--multi-task", f"a={colons}", "--multi-task", f"a: b={world.train}"), "a: b: animals"),
        ((*train, "--validation", f"topic={files['animal-valid']}"), "'no'|'yes'"),
        ((*train, "--task", "sst2_sentences"), "--task"),
        ((world.train, "--validation", valid, "--validation", valid), "--validation"),
    ):
        text = refused("fit", *options, *out)
        assert any(part.strip("'") in text for part in name.split("|")), text


def test_predictions_of_one_task_take_no_names(refused, world, files, tmp_path):
    out = ("--out", tmp_path / "p.csv")
    assert "one task" in refused("predict", world.model, *named(files, "test"), *out)
    assert "DATA" in refused("predict", world.model, *out)
