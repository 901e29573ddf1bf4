"""Every option of every verb, with hostile values."""

import argparse
import shutil

import pytest
from cli_files import fake

from bayeslora.cli.parser import VERBS, build_parser

VALUES = ("", "nan", "-1", "1" * 4301, "x" * 300, "\x1b[31m\u202e\n", "[" * 5000, "1e400")

# Arguments of a verb beside the option, none of which takes long.
BESIDE = {
    "demo": ["--out", "P"],
    "fit": ["missing.jsonl", "--out", "OUT", "--backbone", "nowhere"],
    "predict": ["missing", "missing.jsonl", "--out", "OUT.csv"],
    "evaluate": ["P"],
    "calibrate": ["missing", "missing.jsonl", "--out", "OUT"],
    "recalibrate": ["--fit", "P", "--apply", "P", "--out", "OUT.csv"],
    "conformal": ["--fit", "P", "--apply", "P", "--out", "OUT.csv"],
    "export": ["missing", "--out", "OUT"],
    "compare": ["P", "P"],
    "report": ["P", "--out", "P"],
    "tasks": [],
    "methods": [],
    "info": ["missing"],
    "view": ["missing.csv", "--out", "OUT.html", "--no-browser"],
    "experiment": ["missing.yaml", "--out", "OUT"],
}


def options(verb):
    """Return the options of a verb that take a value."""
    verbs = next(action for action in build_parser()._actions if isinstance(action.choices, dict))
    return [
        action.option_strings[0]
        for action in verbs.choices[verb]._actions
        if action.option_strings and not isinstance(action, argparse._StoreTrueAction)
        if action.nargs != 0
    ]


@pytest.mark.parametrize("verb", VERBS)
def test_a_hostile_value_is_refused_or_harmless(run, tmp_path, monkeypatch, verb):
    """Expect exit code 0 or 2, one visible line, and no output but a requested one."""
    monkeypatch.chdir(tmp_path)
    places = {"P": str(fake(tmp_path / "p.csv", rows=12))}
    beside = [places.get(word, word) for word in BESIDE[verb]]
    for place, option in enumerate(options(verb)):
        # Every kind of option gets all values; all combinations would take minutes.
        for value in VALUES[place % 3 :: 3]:
            before = sorted(tmp_path.rglob("*"))
            result = run(verb, *beside, option, value)
            context = (option, value[:20], result.err)
            assert result.code in {0, 2}, context
            assert "Traceback" not in result.err, context
            assert (result.out + result.err).replace("\n", "").isprintable(), context
            if result.code == 2:
                assert len(result.err.splitlines()) == 1, context
                assert len(result.err) < 3000, context
                assert sorted(tmp_path.rglob("*")) == before, context
            for made in set(tmp_path.rglob("*")) - set(before):
                if made.is_dir():
                    shutil.rmtree(made)
                else:
                    made.unlink(missing_ok=True)  # of a directory that is gone
