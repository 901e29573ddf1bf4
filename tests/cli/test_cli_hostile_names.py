"""No verb prints names from files raw; messages about long names stay short."""

import re

import numpy as np
import pytest

from bayeslora.predictions.record import Predictions

EVIL = "\x1b[2J\x07\r\n\t\x9b31m\u202e\u2066\u200b\x7f"
LONG = "x" * 100_000
HIDDEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
)


def predictions(path, name="", *, seed=0, outside=False, ids="r", mark=EVIL):
    """Write predictions in which every name is hostile."""
    rows = 30
    logits = np.random.default_rng(seed).normal(size=(rows, 3))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    Predictions(
        probs,
        tuple(f"{mark}{letter}" for letter in "abc"),
        None if outside else np.arange(rows) % 3,
        ids=tuple(f"{mark}{ids}{row}" for row in range(rows)),
        name=name or f"{mark}method",
        columns={f"{mark}group": tuple(f"{mark}{row % 2}" for row in range(rows))},
        metadata={"link": mark, "seed": mark},
    ).save(path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    return {
        "P": predictions(folder / "p.parquet"),
        "Q": predictions(folder / "q.parquet", f"{EVIL}other", seed=1),
        "A": predictions(folder / "a.parquet", seed=2, ids="s"),
        "O": predictions(folder / "o.parquet", outside=True, ids="o"),
        "C": predictions(folder / "c.csv"),
        "J": predictions(folder / "j.jsonl"),
        "B": predictions(folder / "b.parquet", mark=f"{LONG}{EVIL}"),
    }


def check(result):
    for text in (result.out, result.err):
        assert not HIDDEN.search(text), ascii(HIDDEN.search(text))
        # Escaped once; JSON has backslashes of its own.
        assert text.startswith("{") or r"\\x1b" not in text


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("evaluate P --ood EVIL=O --by-class --group-by GROUP --cluster-by GROUP", 0),
        ("evaluate C J", 0),
        ("evaluate P --group-by nothing", 2),
        ("evaluate P --over-seeds", 2),
        ("evaluate P Q --ood EVIL=O", 2),
        ("evaluate EVIL", 2),
        ("compare P Q", 0),
        ("compare P P", 0),
        ("compare P Q --reference nobody", 2),
        ("compare P A", 2),
        ("report P Q --out OUT --ood EVIL:nobody=O", 2),
        ("report P --out OUT --per-class nobody", 2),
        ("report P --out OUT --figures EVIL", 2),
        ("recalibrate --fit P --apply A --out OUT.csv", 0),
        ("recalibrate --fit P --apply P --out OUT.csv", 2),
        ("conformal --fit P --apply A --out OUT.csv --method lac:classwise=true", 0),
        ("convert P --out OUT.csv", 0),
        ("convert P --out OUT.EVIL", 2),
        ("methods EVIL", 2),
        ("info EVIL", 2),
        ("fit EVIL --out OUT --adapter EVIL", 2),
        ("export EVIL --out OUT --member EVIL", 2),
        ("evaluate P --bins EVIL", 2),
        ("EVIL", 2),
    ],
)
def test_scoring_verbs(run, files, tmp_path, words, code):
    places = {**files, "EVIL": EVIL, "GROUP": f"{EVIL}group"}

    def meant(word):
        for short, long in places.items():
            if word == short:
                return long
        return word.replace("OUT", str(tmp_path / "out")).replace("EVIL", EVIL)

    parts = [
        "=".join(str(meant(part)) for part in word.split("=")) if "=O" in word else meant(word)
        for word in words.split()
    ]
    result = run(*parts)
    assert result.code == code, result.err
    check(result)
    if code == 2:
        assert len(result.err.splitlines()) == 1
        check(run(*parts, "--verbose"))
