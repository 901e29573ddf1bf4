"""Known tasks, read from small files of the same layout."""

import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest

from bayeslora.data.examples import class_names, encode_labels
from bayeslora.data.known import (
    _RECORDS,
    KNOWN_TASKS,
    known_name,
    load_known,
    load_task,
    ood_sets,
    splits_of,
)
from bayeslora.errors import InputError


def write(path, records):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def question(name, text, choices, answer, **rest):
    return {"id": name, "question": text, "choices": choices, "answer_index": answer, **rest}


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.delenv("BAYESLORA_DATA", raising=False)

    def put(name, records):
        write(tmp_path / name, records)

    put(
        "clinc150/train.jsonl",
        [
            {"id": "train-0", "question": "move my alarm", "answer_index": 1, "label": "alarm"},
            {"id": "train-1", "question": "book a table", "answer_index": 0, "label": "table"},
        ],
    )
    put(
        "clinc150/oos_test.jsonl",
        [{"id": "oos-0", "question": "how is the dow", "answer_index": 2, "label": "oos"}],
    )
    put(
        "boolq_question_only/test.jsonl",
        [
            {"id": "b0", "question": "is it?", "choices": ["false", "true"], "answer_index": 1},
            {"id": "b1", "question": "was it?", "choices": ["false", "true"], "answer_index": 0},
        ],
    )
    return tmp_path


def message(call, *args):
    with pytest.raises(InputError) as caught:
        call(*args)
    text = str(caught.value)
    assert text.count("\n") <= 1
    return text


def test_labels_are_class_names(data_dir):
    examples = load_known("clinc150", "train", data_dir)
    assert examples.texts == ("move my alarm", "book a table")
    assert examples.labels == ("alarm", "table")
    assert examples.ids == ("train-0", "train-1")


def test_out_of_scope_rows_are_out_of_distribution(data_dir):
    examples = load_known("clinc150", "oos_test", data_dir)
    assert examples.labels == ("oos",)
    classes = class_names(load_known("clinc150", "train", data_dir))
    assert encode_labels(examples, classes, unknown="ood").tolist() == [-1]


def test_answer_indices_become_class_names(data_dir):
    assert load_known("boolq_question_only", "test", data_dir).labels == ("true", "false")


def test_the_directory_comes_from_the_variable_where_not_given(data_dir, monkeypatch, tmp_path):
    monkeypatch.delenv("BAYESLORA_DATA", raising=False)
    monkeypatch.setenv("BAYESLORA_DATA", str(data_dir))
    assert len(load_known("clinc150", "train")) == 2
    assert "other/clinc150/train.jsonl does not exist" in message(
        load_known, "clinc150", "train", tmp_path / "other"
    )


def test_a_missing_file_says_where_to_get_it(data_dir):
    text = message(load_known, "ag_news_10k", "test", data_dir)
    for part in (
        str(data_dir / "ag_news_10k" / "test.jsonl"),
        "does not exist",
        "--data-dir",
        "BAYESLORA_DATA",
        "fancyzhx/ag_news",
    ):
        assert part in text


@pytest.mark.parametrize("name", KNOWN_TASKS)
def test_every_task_is_described(name):
    task = KNOWN_TASKS[name]
    assert task.about
    assert "\n" not in task.about
    assert task.licence
    assert "test" in task.splits
    for other, split in task.ood:
        assert split in KNOWN_TASKS[other].splits


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("ag_news_10k", "ag-news"),
        ("sst2_sentences", "sst2"),
        ("boolq_question_only", "boolq-question-only"),
        ("boolq_passage_val", "boolq"),
        ("arc_easy", "arc-easy"),
        ("winogrande_xs", "winogrande-xs"),
        ("mmlu-college-physics", "mmlu-college-physics"),
    ],
)
def test_hyphens_underscores_and_names_of_folders(name, key):
    assert known_name(name) == key


def test_questions_are_read_with_their_options(tmp_path):
    rows = [
        question("q0", "one?", ["a", "b", "c"], 2),
        question("q1", "two?", ["a", "b"], 0),
        question("q2", "three?", ["a", "a", "b"], 2),
        question("q3", "one?", ["a", "b", "c"], 2),
        question("q4", "one?", ["a", "b", "d"], 2),
        question("q5", "tested?", ["a", "b"], 1),
    ]
    write(tmp_path / "arc_easy/train.jsonl", rows)
    write(tmp_path / "arc_easy/test.jsonl", [question("t0", "tested?", ["a", "b"], 0)])
    examples = load_task("arc-easy", "train", tmp_path)
    assert examples.ids == ("q0", "q1", "q4")
    assert examples.choices == (("a", "b", "c"), ("a", "b"), ("a", "b", "d"))
    assert examples.labels == ("C", "A", "C")
    assert examples.dropped == {"two equal options": 1, "repeated": 1, "in test too": 1}
    assert load_task("arc_easy", "train", tmp_path) == examples
    assert len(load_known("arc-easy", "train", tmp_path)) == 5
    assert examples.take([0]).dropped == examples.dropped


def test_out_of_distribution_sets_share_no_text_with_the_task(tmp_path):
    for name in ("arc_easy", "arc_challenge", "mmlu_college_chemistry", "mmlu_college_physics"):
        own = question(f"{name}-0", f"{name}?", ["a", "b"], 0)
        shared = question(f"{name}-1", "shared?", ["c", "d"], 0)
        write(tmp_path / name / "test.jsonl", [own, shared])
        write(tmp_path / name / "train.jsonl", [shared])
    names = ["arc-challenge", "mmlu-college-chemistry", "mmlu-college-physics"]
    assert list(ood_sets("arc_easy")) == names
    sets = [load_task("arc-easy", f"ood:{name}", tmp_path) for name in names]
    assert [rows.texts for rows in sets] == [(f"{name.replace('-', '_')}?",) for name in names]
    assert sets[0].dropped == {"in arc-easy too": 1}
    text = message(load_task, "arc-easy", "ood:arc", tmp_path)
    assert "'ood:arc-challenge'" in text
    assert "'train'" in text


def test_twins_are_groups(tmp_path):
    rows = [question(f"T-{k}-{n}", f"{k}{n} _", ["a", "b"], n) for k in range(3) for n in (0, 1)]
    write(tmp_path / "winogrande_xs/train.jsonl", rows)
    examples = load_task("winogrande-xs", "train", tmp_path)
    assert examples.groups == ("T-0", "T-0", "T-1", "T-1", "T-2", "T-2")
    assert examples.further["twins"] == examples.groups
    assert examples.take([5, 0]).groups == ("T-2", "T-0")


class FakeRows(list):
    """Implements the used parts of `datasets.Dataset`."""

    features: ClassVar = {
        "intent": SimpleNamespace(names=["table", "alarm", "oos"]),
        "label": SimpleNamespace(names=["World", "Sports"]),
    }


HUB = {
    "openbookqa": {
        "id": "7-980",
        "question_stem": "q",
        "choices": {"text": ["x", "y"], "label": ["A", "B"]},
        "answerKey": "B",
    },
    "arc-easy": {
        "id": "M",
        "question": "q",
        "choices": {"text": ["x", "y"], "label": ["1", "2"]},
        "answerKey": "2",
    },
    "winogrande-s": {"sentence": "q", "option1": "x", "option2": "y", "answer": "2"},
    "boolq": {"question": "q", "passage": "p", "answer": True},
    "mmlu-college-physics": {"question": "q", "choices": ["x", "y"], "answer": 1},
}


@pytest.fixture
def hub(monkeypatch):
    """Install a fake `datasets` package; return its recorded calls and the rows it returns."""
    monkeypatch.delenv("BAYESLORA_DATA", raising=False)
    state = SimpleNamespace(calls=[], rows=[])

    def load_dataset(name, configuration, *, split):
        state.calls.append((name, configuration, split))
        return FakeRows(state.rows)

    module = ModuleType("datasets")
    module.load_dataset = load_dataset
    module.__spec__ = ModuleSpec("datasets", None)
    monkeypatch.setitem(sys.modules, "datasets", module)
    return state


@pytest.mark.parametrize("name", HUB)
def test_the_hub_has_the_same_questions_in_other_columns(hub, name):
    hub.rows = [HUB[name]]
    examples = load_known(name, "test")
    assert examples.texts == ("q",)
    assert examples.labels == ("B",)
    expected = ("false", "true") if name == "boolq" else ("x", "y")
    assert examples.choices == (expected,)
    assert examples.pairs == (("p",) if name == "boolq" else None)
    assert hub.calls[0][0] == KNOWN_TASKS[name].hub_id


def test_a_validation_split_is_named_where_there_is_one(hub, tmp_path):
    assert "validation" in splits_of("arc-easy")
    assert "validation" not in splits_of("sst2")
    assert "validation" not in splits_of("arc-easy", tmp_path)
    write(tmp_path / "arc_easy/validation.jsonl", [question("v", "q", ["x", "y"], 0)])
    assert "validation" in splits_of("arc-easy", tmp_path)
    hub.rows = [HUB["arc-easy"]]
    assert load_known("arc-easy", "validation").labels == ("B",)


def test_a_directory_goes_before_the_hub(hub, data_dir):
    assert len(load_known("clinc150", "train", data_dir)) == 2
    assert hub.calls == []


def test_an_unreachable_hub_is_an_error_of_input(hub, monkeypatch):
    def fail(*_args, **_options):
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", fail)
    text = message(load_known, "openbookqa", "test")
    for part in ("allenai/openbookqa", "no route", "--data-dir"):
        assert part in text


def test_every_task_with_a_hub_id_has_a_source_there():
    for task in KNOWN_TASKS.values():
        assert (task.hub_record in _RECORDS) == (task.hub_id is not None)
        assert set(task.hub_splits) <= set(task.splits)
