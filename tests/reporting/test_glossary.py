"""The glossary has a term for every score, and the table of sentences no idle entry."""

import re
from pathlib import Path

import bayeslora.reporting
from bayeslora.cli.parser import VERBS
from bayeslora.reporting.document import glossary
from bayeslora.reporting.score_tables import COLUMNS, OOD_COLUMNS
from bayeslora.reporting.text import words


def test_every_score_that_is_shown_has_a_term():
    names = {term.name for term in glossary()}
    columns = {**COLUMNS, **OOD_COLUMNS}.values()
    assert {column.title for column in columns} | {"Confidence", "Intervals"} <= names


def test_advice_names_commands_that_exist():
    advice = Path(bayeslora.reporting.__file__).parent / "templates" / "sentences.toml"
    text = advice.read_text(encoding="utf-8").replace("{recalibrate}", "recalibrate")
    assert {*re.findall(r"\(bayeslora ([a-z-]+)", text)} == {"recalibrate"} <= VERBS.keys()


def test_every_sentence_is_said_somewhere():
    folder = Path(bayeslora.reporting.__file__).parent
    code = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    # Doubts about a detector are facts of their own.
    idle = {key for key in words()["say"] if not re.search(rf"[\"']{key}[\"']", code)}
    assert idle <= {"negligible", "noise"}
