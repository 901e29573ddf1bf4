"""The study of AMT: its parts share no class, and its summary says which arms have not run."""

import pytest

from benchmarks.amt import summary
from benchmarks.amt.settings import PARTS, SETTINGS
from benchmarks.lib.results import Results

DIGITS = "digits"


def test_no_digit_is_in_two_parts():
    classes = [set(SETTINGS[DIGITS].read(part, None).labels) for part in PARTS]
    assert sum(map(len, classes)) == len(set.union(*classes)) == 10


def test_arms_that_have_not_run_are_named_until_they_have(tmp_path):
    results = Results(tmp_path, summary.KEY)

    def text():
        summary.write_summary(tmp_path)
        return (tmp_path / "summary.md").read_text(encoding="utf-8").split("## Intents")[0]

    scores = {"accuracy": [0.5, 1.0], "nll": 1.0, "ece": 0.1}
    row = {"data": DIGITS, "seed": 0, "clean": scores, "attacked": scores}
    for arm in summary.ARMS[:-2]:
        results.append(row | {"arm": arm})
    line = "Arms that have not run: `pool, ensemble`, `member of the validation classes`."
    assert line in text()
    for arm in summary.ARMS[-2:]:
        results.append(row | {"arm": arm})
    assert "not run" not in text()


def test_gains_are_paired_over_the_episodes_that_both_arms_have(tmp_path):
    results = Results(tmp_path, summary.KEY)
    for arm, accuracy in {"both": [0.9, 0.7], "clean meta-tuning": [0.5, 0.6, 0.0]}.items():
        scores = {"accuracy": accuracy, "nll": 1.0, "ece": 0.1}
        row = {"data": "intents", "arm": arm, "seed": 0, "clean": scores, "attacked": scores}
        results.append(row)
    claims = {(claim.text, claim.notes): claim.gains for claim in summary.claims(tmp_path)}
    unseen = "higher accuracy under attack on classes that were never seen than clean meta-tuning"
    assert claims[unseen, "intents"] == pytest.approx(((0.4 + 0.1) / 2,))
    assert claims[unseen, DIGITS] == ()
