"""The wording of the errors that users see first, in one file.

Other tests assert the class of an error and the value that its message must name. The wording is
only in `wording.txt`: `make wording` rewrites it, and reviewers read its diff.
"""

import contextlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

GOLDEN = Path(__file__).with_name("wording.txt")
STORED = Path(__file__).parents[1] / "stored_models" / "polar-vbll"
GOOD = '{"text": "a cat", "label": "x"}\n{"text": "a dog", "label": "y"}\n'
FIT = "fit data.jsonl --out model --backbone /nowhere/backbone"
PREDICT = "predict model texts.jsonl --out p.parquet"
TABLE = {
    "id": ["p", "q", "r"],
    "label": ["a", "b", "a"],
    "prob_a": [0.7, 0.2, 0.6],
    "prob_b": [0.3, 0.8, 0.4],
}


def data(content=GOOD, name="data.jsonl"):
    """Return a step that writes a file; lines with a byte of Latin-1 stay so."""
    return lambda: Path(name).write_bytes(content.encode("latin-1"))


def after(*rows):
    """Return a step that writes two good rows and then `rows`."""
    return data(GOOD + "".join(f"{row}\n" for row in rows))


def table(name="p.parquet", **changes):
    """Return a step that writes a predictions file; a column that is None is left out."""
    columns = {key: value for key, value in (TABLE | changes).items() if value is not None}
    return lambda: pq.write_table(pa.table(columns), name)


def model(harm=lambda: None):
    """Return a step that copies a stored model, which is older than hashes, and damages it."""

    def copy():
        data('{"text": "rain"}\n', "texts.jsonl")()
        shutil.copytree(STORED, "model")
        harm()

    return copy


def change(edit):
    record = json.loads(Path("model/bayeslora.json").read_text(encoding="utf-8"))
    edit(record)
    Path("model/bayeslora.json").write_text(json.dumps(record), encoding="utf-8")


def cut(name, count):
    path = Path("model", name)
    path.write_bytes(path.read_bytes()[:-count])


# By description: the command, and the step that prepares the directory.
CASES = {
    "no verb of that name": ("fti data.jsonl", data()),
    "no such option": (f"{FIT} --epoch-count 3", data()),
    "no data named": ("fit --out model", data()),
    "not a number": (f"{FIT} --epochs three", data()),
    "unknown adapter": (f"{FIT} --adapter polr", data()),
    "unknown option of an adapter": (f"{FIT} --adapter polar:rank=4", data()),
    "value that an option refuses": (f"{FIT} --adapter polar:r=0", data()),
    "unknown posterior": (f"{FIT} --posterior vbl", data()),
    "posterior's value": (f"{FIT} --posterior vbll:prior_scale=-1", data()),
    "posterior without validation rows": (f"{FIT} --posterior temperature", data()),
    "unknown task": (f"{FIT} --task sst3", data()),
    "no such backbone": (FIT, data()),
    "out exists": (FIT, lambda: (data()(), Path("model").mkdir(), Path("model/mine").touch())),
    "missing file": (FIT, lambda: None),
    "no extension that is read": (
        "fit data.txt --out model --backbone /nowhere/backbone",
        data(name="data.txt"),
    ),
    "empty file": (FIT, data("")),
    "unreadable encoding": (FIT, after('{"text": "caf\xe9", "label": "x"}')),
    "broken JSON": (FIT, after('{"text": "a')),
    "missing text column": (FIT, data('{"txet": "a", "label": "x"}\n')),
    "missing label column": (FIT, data('{"text": "a"}\n')),
    "blank text": (FIT, after('{"text": " ", "label": "x"}')),
    "number for a text": (FIT, after('{"text": 5, "label": "x"}')),
    "missing label": (FIT, after('{"text": "a", "label": null}')),
    "NaN for a label": (FIT, after('{"text": "a", "label": NaN}')),
    "labels of two kinds": (FIT, after('{"text": "a", "label": 1}')),
    "one class": (FIT, data('{"text": "a", "label": "x"}\n{"text": "b", "label": "x"}\n')),
    "repeated id": (
        FIT,
        data('{"id": 1, "text": "a", "label": "x"}\n{"id": 1, "text": "b", "label": "y"}\n'),
    ),
    "label not seen in training": (
        f"{FIT} --validation valid.jsonl",
        lambda: (data()(), data('{"text": "c", "label": "z"}\n', "valid.jsonl")()),
    ),
    "no model": (PREDICT, data(name="texts.jsonl")),
    "checkpoint for a model": (
        PREDICT,
        lambda: (
            data(name="texts.jsonl")(),
            Path("model").mkdir(),
            data("{}", "model/config.json")(),
        ),
    ),
    "newer model": (PREDICT, model(lambda: change(lambda record: record.update(format_version=9)))),
    "truncated tensors": (PREDICT, model(lambda: cut("adapter.safetensors", 20))),
    "missing tensors": (PREDICT, model(lambda: Path("model/posterior.safetensors").unlink())),
    "missing field": (PREDICT, model(lambda: change(lambda record: record.pop("classes")))),
    "predictions in no known format": (
        "predict model texts.jsonl --out p.txt",
        data(name="texts.jsonl"),
    ),
    "no predictions": ("evaluate p.parquet", lambda: None),
    "no columns of probabilities": ("evaluate p.parquet", table(prob_a=None, prob_b=None)),
    "data for predictions": ("report data.jsonl --out r", data()),
    "model for predictions": ("report model --out r", model()),
    "NaN for a probability": ("evaluate p.parquet", table(prob_a=[0.7, float("nan"), 0.6])),
    "negative probability": ("evaluate p.parquet", table(prob_a=[0.7, 0.2, -0.6])),
    "probabilities that do not sum to 1": ("evaluate p.parquet", table(prob_b=[0.3, 0.9, 0.4])),
    "label that is no class": ("evaluate p.parquet", table(label=["a", "b", "c"])),
    "duplicate id": ("evaluate p.parquet", table(id=["p", "q", "p"])),
    "unknown score": ("evaluate p.parquet --scores ecce", table()),
    "unknown score to compare by": (
        "compare p.parquet q.parquet --by ecce",
        lambda: (table()(), table("q.parquet")()),
    ),
    "unknown recalibrator": (
        "recalibrate --fit p.parquet --apply q.parquet --method platt --out o.parquet",
        lambda: (table()(), table("q.parquet")()),
    ),
    "unknown method": ("methods vbl", lambda: None),
}


def transcript(case):
    """Run a case in an empty directory; return the command, the exit code and the message."""
    from bayeslora.cli import main

    command, prepare = CASES[case]
    errors = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stderr(errors),
    ):
        prepare()
        code = main(command.split())
        message = errors.getvalue().replace(os.path.realpath(folder), "DIR").strip()
    # A new method changes no wording.
    message = re.sub(r"choose from ('\w+'), .*?(?=\)|$)", r"choose from \1, …", message)
    return f"# {case}\n$ bayeslora {command}\n{message}\n[exit code {code}]\n"


@pytest.fixture(scope="module")
def golden():
    parts = GOLDEN.read_text(encoding="utf-8").split("\n# ")
    return {part.split("\n", 1)[0].removeprefix("# "): part.removeprefix("# ") for part in parts}


def test_the_file_has_every_case(golden):
    assert list(golden) == list(CASES)


@pytest.mark.parametrize("case", CASES)
def test_errors_are_worded_as_reviewed(golden, case):
    assert transcript(case).strip() == f"# {golden[case]}".strip()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    GOLDEN.write_text("\n".join(map(transcript, CASES)), encoding="utf-8")
