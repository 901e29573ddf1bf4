"""Changes made by adapters, in every file of a report."""

import csv
import json
import math
from dataclasses import dataclass

import pytest
from refusal import refused

from bayeslora.reporting.adapter_changes import adapter_changes, adapter_words
from bayeslora.reporting.report import report

pytestmark = pytest.mark.usefixtures("blank_figures")

FEW = {"num_resamples": 2}


@dataclass(frozen=True)
class Layer:
    """Numbers of a layer, not necessarily consistent with each other."""

    name: str
    singular_values: tuple[float, ...] = (3.0, 4e-4)
    norm: float = 3.0
    relative_norm: float = 0.123
    stable_rank: float = 1.25
    drift: float = 3e-7
    is_gated: bool = False


UNCHANGED = {"norm": 0.0, "relative_norm": 0.0, "stable_rank": math.nan, "singular_values": (0.0,)}
LAYERS = [
    Layer("layers.0.q<b>proj"),
    Layer("layers.0.v_proj", relative_norm=0.5, stable_rank=2.75, drift=4e-7),
    Layer("layers.1.v_proj", **UNCHANGED),
]


def words(*layers, members=1):
    [change] = adapter_changes({"m": [list(layers)] * members})
    return adapter_words(change)


@pytest.fixture(scope="module")
def written(make, tmp_path_factory):
    out = tmp_path_factory.mktemp("spectra") / "report"
    spectrum = {"<i>polar": [LAYERS, LAYERS[:1]], "lora": [LAYERS[1:]]}
    return report(make("m", rows=30), spectrum=spectrum, out=out, **FEW).parent


def test_the_sentence_says_ranks_most_changed_layer_and_drift():
    assert words(*LAYERS)[0] == (
        "2 of 3 layers changed, \u2068layers.0.v_proj\u2069 the most, by 50\N{NO-BREAK SPACE}% of"
        " its weight; stable ranks lie between 1.25 and 2.75; drift from orthogonality is at most"
        " 4e-7, within 1e-5."
    )


def test_the_table_has_a_row_a_layer():
    _, table = words(*LAYERS)
    assert [row.headings for row in table.rows] == [(layer.name,) for layer in LAYERS]
    shown = [[cell.value for cell in row.cells] for row in table.rows]
    assert shown[0] == ["3", "12.3\N{NO-BREAK SPACE}%", "1.25", "3e-7"]
    assert shown[2] == ["0", "0\N{NO-BREAK SPACE}%", "–", "3e-7"]


def test_markdown_and_latex_have_the_same_table(written):
    text = (written / "report.md").read_text(encoding="utf-8")
    section = text.split("## Adapter changes\n")[1].split("\n## ")[0]
    assert "**&lt;i&gt;polar" in section
    assert "| layers.0.v\\_proj | 3 | 50\N{NO-BREAK SPACE}% | 2.75 | 4e-7 |" in section
    assert "(figures/spectrum-2.svg)" in section
    assert "stable rank = (∑_i (σ_i)²)/(σ_1)²" in text.replace("\\", "")
    latex = (written / "tables.tex").read_text(encoding="utf-8")
    assert r"\label{tab:bayeslora-spectrum-2}" in latex
    assert r"{layers.0.v\_proj} & 3 & 50~\% & 2.75 & 4e-7" in latex


def test_files_for_programs_have_the_numbers_whole(written):
    content = json.loads((written / "scores.json").read_text(encoding="utf-8"))
    first, second = content["spectra"]
    assert (first["label"], first["num_members"], len(second["layers"])) == ("<i>polar", 2, 2)
    assert first["layers"][0] == {
        "name": "layers.0.q<b>proj",
        "norm": 3.0,
        "relative_norm": 0.123,
        "stable_rank": 1.25,
        "drift": 3e-7,
        "singular_values": [3.0, 4e-4],
        "is_gated": False,
    }
    assert first["layers"][2]["stable_rank"] is None
    with (written / "scores.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["by"] == "layer"]
    assert len(rows) == 4 * 5
    values = {(row["method"], row["part"], row["score"]): row["value"] for row in rows}
    assert values["lora", "layers.0.v_proj", "relative_norm"] == "0.5"
    assert values["lora", "layers.1.v_proj", "stable_rank"] == ""


@pytest.mark.parametrize(
    ("spectrum", "message"),
    [
        ([LAYERS], "clf.spectrum()}"),
        ({"m": LAYERS}, "'m'"),
        ({"m": []}, "[]"),
        ({"m": None}, "None"),
        ({"m": [[]]}, "'m'"),
    ],
)
def test_what_is_no_spectrum_is_named_and_nothing_is_written(make, tmp_path, spectrum, message):
    with refused("input", message):
        report(make("m", rows=30), spectrum=spectrum, out=tmp_path / "out", **FEW)
    assert not (tmp_path / "out").exists()
