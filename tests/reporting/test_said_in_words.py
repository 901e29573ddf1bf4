"""Text beside the tables: the floor of the NLL, the detection score, and sets."""

import re

import numpy as np
import pytest

import bayeslora as bl
from bayeslora.cli import main
from bayeslora.reporting.console import compare_table, scores_table
from bayeslora.reporting.sentences import set_sentences

pytestmark = pytest.mark.usefixtures("blank_figures")


def floored(make, name, seed=0):
    """Return predictions that assign probability zero to the label of three rows."""
    plain = make(name, seed=seed)
    probs = plain.probs.copy()
    for row in range(3):
        probs[row] = 0
        probs[row, (plain.labels[row] + 1) % 4] = 1
    return plain.with_probs(probs)


def test_the_floor_of_the_nll_is_said_where_it_was_hit(make, tmp_path, capsys):
    hit, clear = (
        bl.evaluate(predictions, num_resamples=5)
        for predictions in (floored(make, "hit"), make("m"))
    )
    assert "cut off on 3 examples" in scores_table([hit])
    assert "cut off on 3 examples" in scores_table([hit, clear])
    assert "1e-12" not in scores_table([clear])
    assert "1e-12" not in scores_table([hit], keys=["accuracy"])
    comparison = bl.compare([floored(make, "hit"), make("m")], num_resamples=5, num_permutations=0)
    assert comparison.nll_clamped == 3
    assert "NLL is cut off on 3 examples" in compare_table(comparison)
    bl.report(floored(make, "hit"), out=tmp_path / "report", num_resamples=5)
    for page in ("index.html", "report.md"):
        assert "NLL is cut off" in (tmp_path / "report" / page).read_text(encoding="utf-8")
    half = np.arange(240) % 2 == 0
    for name, rows in (("fit", half), ("apply", ~half)):
        floored(make, "hit").replace(ids=None).take(rows).save(tmp_path / f"{name}.csv")
    words = ["recalibrate", *(f"--{k}={tmp_path / k}.csv" for k in ("fit", "apply"))]
    assert main([*words, "--out", str(tmp_path / "out.csv")]) == 0
    assert re.search("NLL, --fit, before: cut off +2 ", capsys.readouterr().out)


def with_sets():
    """Return 40 rows of two classes; sets of class b contain the label in 12 of 20 rows."""
    labels = np.repeat([0, 1], 20)
    sets = np.zeros((40, 2), dtype=bool)
    sets[np.arange(40), labels] = True
    sets[20:28, 1] = False
    sets[:5] = True
    probs = np.where(np.arange(2) == labels[:, None], 0.7, 0.3)
    return bl.Predictions(probs, ("a", "b"), labels, sets=sets, metadata={"conformal_alpha": "0.1"})


def test_sets_are_explained():
    predictions = with_sets()
    sentences = set_sentences(predictions, bl.evaluate(predictions, num_resamples=5))
    assert len(sentences) == 2
    # 32 of 40 sets contain their label; sizes are 2 (5 times), 1 (27) and 0 (8)
    assert "80.0\N{NO-BREAK SPACE}%" in sentences[0].replace(" %", "\N{NO-BREAK SPACE}%")
    assert "0.93 of 2 classes" in sentences[1]
