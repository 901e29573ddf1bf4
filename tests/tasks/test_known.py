"""Known tasks, read from small files of the same layout."""

import json

import pytest

from bayeslora.errors import InputError
from bayeslora.tasks.examples import class_names, encode_labels
from bayeslora.tasks.known import KNOWN_TASKS, load_known


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.delenv("BAYESLORA_DATA", raising=False)

    def put(name, records):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))

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
    (tmp_path / "clinc150/classes.json").write_text('["table", "alarm", "oos"]')
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
        "'fancyzhx/ag_news'",
        "Nothing is downloaded",
        "id, question and label",
    ):
        assert part in text


def test_no_directory_at_all(data_dir):
    text = message(load_known, "boolq_question_only", "train")
    assert "<data directory>/boolq_question_only/train.jsonl cannot be found" in text
    assert "no data directory is set" in text
    assert "id, question and answer_index" in text


def test_unknown_names():
    assert "did you mean 'clinc150'" in message(load_known, "clinc", "train")
    text = message(load_known, "ag_news_10k", "validation")
    assert "unknown split of ag_news_10k 'validation'" in text
    assert "choose from 'test', 'train'" in text


def test_labels_outside_the_classes_are_named(data_dir):
    path = data_dir / "clinc150" / "train.jsonl"
    path.write_text('{"id": "0", "question": "x", "label": "alarn"}\n')
    text = message(load_known, "clinc150", "train", data_dir)
    assert f"{path}, row 1, column 'label': 'alarn' is not in classes.json" in text
    path = data_dir / "boolq_question_only" / "test.jsonl"
    path.write_text('\n{"id": "0", "question": "x", "answer_index": 2}\n')
    text = message(load_known, "boolq_question_only", "test", data_dir)
    assert f"{path}, row 2, column 'answer_index': 2 is not an index from 0 to 1" in text


def test_a_record_without_label_is_named(data_dir):
    path = data_dir / "clinc150" / "train.jsonl"
    path.write_text('{"question": "x", "label": "alarm"}\n{"question": "y"}\n')
    assert "row 2, column 'label': the label is missing" in message(
        load_known, "clinc150", "train", data_dir
    )


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ('{"a": 1}', "must hold a list of class names"),
        ('["a", 1]', "must hold a list of class names"),
        ('["a"]', "at least two classes, each once; it has 1"),
        ('["a", "b", "a"]', "at least two classes, each once; it has 3"),
        ("[", "cannot be read as JSON"),
    ],
)
def test_bad_lists_of_classes(content, part, data_dir):
    path = data_dir / "clinc150" / "classes.json"
    path.write_text(content)
    text = message(load_known, "clinc150", "train", data_dir)
    assert str(path) in text
    assert part in text


@pytest.mark.parametrize("name", KNOWN_TASKS)
def test_every_task_is_described(name):
    task = KNOWN_TASKS[name]
    assert task.about
    assert "\n" not in task.about
    assert task.licence
    assert {"train", "test"} <= set(task.splits)
