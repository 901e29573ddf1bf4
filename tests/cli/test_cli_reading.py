"""Files in various forms: compressed, piped, with other separators, encodings and columns."""

import gzip
import json

import pytest
from cli_files import fake

from bayeslora.predictions.record import Predictions

ROWS = "label;größe;p\nja;1;0.75\nnein;2;0.25\nja;3;0.5\n"
OPTIONS = ["--set", "delimiter=;", "--set", "encoding=latin-1", "--probability-column", "p=ja"]


@pytest.mark.parametrize("name", ["p.csv", "p.csv.gz"])
def test_a_foreign_table_is_read(run, tmp_path, name):
    content = ROWS.encode("latin-1")
    source = tmp_path / name
    source.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    done = run("evaluate", source, *OPTIONS, "--group-by", "größe", "--json")
    assert done.code == 0, done.err
    content = json.loads(done.out)
    assert (content["n"], content["num_classes"]) == (3, 2)
    assert content["scores"]["accuracy"]["value"] == pytest.approx(2 / 3)


def test_every_scoring_verb_takes_the_options(run, tmp_path):
    made = Predictions.load(fake(tmp_path / "made.parquet", rows=90))
    paths = []
    for name, rows in (("fit", range(45)), ("apply", range(45, 90))):
        path = tmp_path / f"{name}.tsv"
        part = made.take(list(rows))
        lines = ["id\tlabel\tA\tB\tC"]
        lines += [
            "\t".join([row.id, row.label, *(f"{2 * value:.17g}" for value in row.probs.values())])
            for row in part
        ]
        path.write_text("\n".join(lines))
        paths.append(path)
    read = ["--renormalise", *(f"--probability-column={c.upper()}={c}" for c in "abc")]
    both = ["--fit", paths[0], "--apply", paths[1]]
    for command in (
        ["evaluate", *paths, "--json"],
        ["compare", paths[1], paths[1], "--json"],
        ["report", paths[1], "--out", tmp_path / "page", "--figures", "svg"],
        ["recalibrate", *both, "--out", tmp_path / "r.parquet"],
        ["conformal", *both, "--out", tmp_path / "c.parquet"],
    ):
        done = run(*command, *read)
        assert done.code == 0, done.err
    expected = made.take(list(range(45, 90))).probs
    predictions = Predictions.load(tmp_path / "c.parquet")
    assert abs(predictions.probs - expected).max() < 1e-15


@pytest.mark.parametrize(
    ("content", "classes"),
    [
        ("p\tlabel\n0.75\tspam\n0.5\tham\n", ("ham", "spam")),
        ("p\tlabel\n0.75\t1\n0.5\t0\n", ("not spam", "spam")),
        ("p\n0.75\n0.5\n", ("not spam", "spam")),
    ],
)
def test_one_named_column_is_enough_for_two_classes(tmp_path, content, classes):
    path = tmp_path / "p.tsv"
    path.write_text(content)
    predictions = Predictions.load(path, probability_columns={"p": "spam"})
    assert predictions.classes == classes
    assert predictions.probs[:, 1] == pytest.approx([0.75, 0.5], abs=1e-15)
    assert predictions.labels is None or predictions.labels.tolist() == [1, 0]


@pytest.mark.parametrize("column", ["prob_spam", "logit_spam"])
def test_one_column_that_is_not_named_is_refused(refused, tmp_path, column):
    """The other may have been lost."""
    path = tmp_path / "p.csv"
    path.write_text(f"{column},label\n0.75,spam\n0.5,ham\n")
    assert column in refused("evaluate", path)


USELESS = {
    "long delimiter": ("p.csv", ["--set", "delimiter=;;"], "delimiter"),
    "unknown encoding": ("p.csv", ["--set", "encoding=latin-0"], "encoding"),
    "no text encoding": ("p.csv", ["--set", "encoding=base64"], "encoding"),
    "no class": ("p.csv", ["--probability-column", "p"], "NAME=CLASS"),
    "unknown column": ("p.csv", ["--probability-column", "prob_q=q"], "'prob_q'"),
    "class twice": ("p.csv", [f"--probability-column=prob_{c}=x" for c in "ab"], "'x'"),
}


@pytest.mark.parametrize("case", USELESS)
def test_options_that_cannot_be_meant(refused, tmp_path, case):
    name, options, part = USELESS[case]
    path = fake(tmp_path / name, rows=6)
    assert part in refused("evaluate", path, *options)
