"""The parser: cheap to import, short error messages, correct defaults in its help."""

import inspect
import re
import subprocess
import sys

import pytest
from cli_files import NOWHERE, write_rows

from bayeslora import BayesianClassifier, __version__
from bayeslora.cli import VERBS, build_parser
from bayeslora.cli.arguments import number
from bayeslora.data.columns import DataColumns
from bayeslora.engine.training_options import TrainingSettings

HEAVY = ("torch", "transformers", "numpy", "pyarrow", "matplotlib", "yaml", "scipy")

CONTRACT = [
    *("demo", "fit", "predict", "evaluate", "calibrate", "update"),
    *("recalibrate", "conformal", "decide", "apply", "labels", "suggest"),
    *("budget", "monitor", "export"),
    *("compare", "report", "view", "experiment", "tasks", "methods", "info"),
]


def modules_after(*argv):
    """Return the heavy modules that a command imports in a new process."""
    code = (
        "import sys\nfrom bayeslora.cli import main\n"
        f"main({list(argv)!r})\n"
        f"print('IMPORTED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.rpartition("IMPORTED ")[2].strip()


@pytest.mark.parametrize("argv", [["--help"], ["fit", "--help"], ["--version"], ["nonsense"]])
def test_help_and_complaints_import_nothing_heavy(argv):
    assert modules_after(*argv) == "[]"


def test_tasks_imports_neither_torch_nor_transformers():
    assert modules_after("tasks") == "['numpy', 'yaml']"


def test_alone_it_shows_the_help_and_a_script_notices(run):
    result = run()
    assert (result.code, result.out) == (2, "")
    assert result.err == run("--help").out


def test_every_verb_of_the_contract_is_there(run):
    assert list(VERBS) == CONTRACT
    result = run("--help")
    assert result.code == 0
    for verb in CONTRACT:
        assert re.search(rf"^    {verb}\b", result.out, re.MULTILINE)


@pytest.mark.parametrize("columns", ["30", "80", "200"])
@pytest.mark.parametrize("verb", CONTRACT)
def test_every_verb_has_help_at_any_width(run, monkeypatch, verb, columns):
    monkeypatch.setenv("COLUMNS", columns)
    result = run(verb, "--help")
    assert result.code == 0
    assert result.out.startswith(f"usage: bayeslora {verb}")
    assert "--verbose" in result.out
    assert "--quiet" in result.out


def test_python_m_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "bayeslora", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"bayeslora {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["fti"], ["'fti'", "choose from", "fit"]),
        (["predict", "model"], ["--out", "bayeslora predict --help"]),
        (["predict", "m", "d", "--out", "p.csv", "--unknown-labels", "odd"], ["ood", "error"]),
        (["fit", "t", "--patience", "3"], ["--patience"]),
        (["fit", "t", "--set", "patience"], ["--set must be KEY=VALUE"]),
        (["fit", "t", "--set", "patince=3"], ["'patience'"]),
        (["fit", "t", "--epoch", "3"], ["--epoch"]),
        (["evaluate"], ["RUN_OR_FILE"]),
        (["recalibrate", "--fit", "a.csv"], ["--apply", "--out"]),
        (["compare", "a.csv", "--ood", "x=y"], ["--ood"]),
    ],
)
def test_wrong_arguments_are_refused_in_a_line(refused, argv, parts):
    message = refused(*argv)
    for part in parts:
        assert part in message


def test_defaults_in_the_help_are_those_of_python():
    init = inspect.signature(BayesianClassifier.__init__).parameters
    python = {name: item.default for name, item in init.items()}
    stated = {
        name: re.search(r"\(default: (.*)\)$", action.help or "").group(1)
        for name, action in build_parser().parse_args(["fit", "train.jsonl"]).actions.items()
        if "(default: " in (action.help or "")
    }
    for name in ("adapter", "posterior", "seed"):
        assert stated[name] == str(python[name]), name
    for name in ("batch_size", "patience", "head_lr"):
        assert stated[name] == str(getattr(TrainingSettings, name)), name
    columns = DataColumns()
    assert stated["text_column"].startswith(f"{columns.text}, ")
    assert stated["label_column"].startswith(f"{columns.label}, ")


def test_help_comes_from_the_signature_of_the_function(run):
    text = " ".join(run("evaluate", "--help").out.split())
    assert "--group-by COLUMN columns of the predictions" in text
    assert "cluster_by=COLUMN" in text


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("1e-3", 0.001), ("1.0", 1.0), ("auto", "auto"), ("", "")]
)
def test_a_number_is_one_and_all_else_is_left_to_python(text, value):
    result = number(text)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--epochs", value) for value in ("0", "2.5", "three")),
        ("--batch-size", "0"),
        ("--set head_lr", "-1"),
        ("--max-length", "long"),
        *(("--depth", value) for value in ("0", "deep")),
        *(("--cv", value) for value in ("1", "all")),
        ("--hold-out", "1"),
        ("--seed", "4294967296"),
        ("--set patience", "0"),
    ],
)
def test_python_refuses_values_of_fit_before_it_loads_anything(refused, tmp_path, option, value):
    rows = [{"text": f"{label} {n}", "label": label} for label in "xy" for n in range(9)]
    data = write_rows(tmp_path / "data.jsonl", rows)
    fit = ["fit", data, "--out", tmp_path / "m", "--backbone", NOWHERE, "--posterior", "map"]
    words = f"{option}={value}".split() if " " in option else [option, value]
    message = refused(*fit, *words)
    assert option.split()[-1].strip("-").replace("_", "-") in message.replace("_", "-")
    assert value in message
    assert NOWHERE not in message


def test_files_may_stand_between_options():
    words = ["report", "a.csv", "--ood", "far=x.csv", "b.csv", "--out", "d", "c.csv"]
    args = build_parser().parse_args(words)
    assert [str(file) for file in args.files] == ["a.csv", "b.csv", "c.csv"]
    assert args.out == "d"
