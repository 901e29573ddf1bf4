"""Every option of every verb, with values that no option means."""

import argparse
import shutil

import pytest
from cli_files import fake

from bayeslora.cli.parser import VERBS, build_parser

VALUES = ("", "nan", "-1", "1" * 4301, "x" * 300, "\x1b[31m\u202e\n", "[" * 5000, "1e400", "\ud800")

# What a verb is given beside the option; nothing that would take long.
BESIDE = {
    "demo": ["--out", "P"],
    "fit": ["missing.jsonl", "--out", "OUT", "--backbone", "nowhere"],
    "predict": ["missing", "missing.jsonl", "--out", "OUT.csv"],
    "evaluate": ["P"],
    "calibrate": ["missing", "missing.jsonl", "--out", "OUT"],
    "recalibrate": ["--fit", "P", "--apply", "P", "--out", "OUT.csv"],
    "conformal": ["--fit", "P", "--apply", "P", "--out", "OUT.csv"],
    "export": ["missing", "--out", "OUT"],
    "convert": ["P", "--out", "OUT.csv"],
    "compare": ["P", "P"],
    "report": ["P", "--out", "P"],
    "tasks": [],
    "methods": [],
    "info": ["missing"],
    "cache": [],
    "view": ["missing.csv", "--out", "OUT.html", "--no-browser"],
    "experiment": ["missing.yaml", "--out", "OUT"],
}


def options(verb):
    """The options of a verb that take a value."""
    verbs = next(one for one in build_parser()._actions if isinstance(one.choices, dict))
    return [
        action.option_strings[0]
        for action in verbs.choices[verb]._actions
        if action.option_strings and not isinstance(action, argparse._StoreTrueAction)
        if action.nargs != 0
    ]


@pytest.mark.parametrize("verb", VERBS)
def test_a_hostile_value_is_refused_or_harmless(run, tmp_path, monkeypatch, verb):
    """In the end: exit code 0 or 2, one visible line, and nothing but a wanted output."""
    monkeypatch.chdir(tmp_path)
    places = {"P": str(fake(tmp_path / "p.csv", rows=12))}
    beside = [places.get(word, word) for word in BESIDE[verb]]
    for place, option in enumerate(options(verb)):
        # All values meet every kind of option; each with each would take minutes.
        for value in VALUES[place % 3 :: 3]:
            before = sorted(tmp_path.rglob("*"))
            result = run(verb, *beside, option, value)
            said = (option, value[:20], result.err)
            assert result.code in {0, 2}, said
            assert "Traceback" not in result.err, said
            assert (result.out + result.err).replace("\n", "").isprintable(), said
            if result.code == 2:
                assert len(result.err.splitlines()) == 1, said
                assert len(result.err) < 3000, said
                assert sorted(tmp_path.rglob("*")) == before, said
            for made in set(tmp_path.rglob("*")) - set(before):
                if made.is_dir():
                    shutil.rmtree(made)
                else:
                    made.unlink(missing_ok=True)  # of a directory that is gone
