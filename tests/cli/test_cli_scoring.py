"""evaluate, compare, recalibrate and report on predictions files that need no model."""

import json

import pytest
from cli_files import fake

from bayeslora.metrics.compare import compare
from bayeslora.metrics.evaluate import SCORE_KEYS, evaluate
from bayeslora.predictions.record import Predictions
from bayeslora.reporting.text import p_text


@pytest.fixture
def files(tmp_path):
    """Write two methods on the same rows, and their predictions of unseen rows."""
    return {
        "a": fake(tmp_path / "a.parquet", seed=1, name="plain"),
        "b": fake(tmp_path / "b.parquet", seed=2, name="bayes"),
        "near_a": fake(tmp_path / "near_a.parquet", seed=3, outside=True),
        "near_b": fake(tmp_path / "near_b.parquet", seed=4, outside=True),
    }


def test_evaluate_json_is_one_object_a_file(run, files):
    options = ["--bins", 10, "--seed", 3, "--ood", f"unseen groups={files['near_a']}"]
    content = json.loads(run("evaluate", files["a"], *options, "--json").out)
    expected = evaluate(
        files["a"], ood={"unseen groups": files["near_a"]}, num_bins=10, seed=3
    ).to_json()
    assert content == json.loads(json.dumps(expected))
    assert content["file"] == str(files["a"])
    assert content["num_bins"] == 10
    assert tuple(content["scores"]) == SCORE_KEYS
    assert set(content["scores"]["ece"]) == {"value", "low", "high"}
    assert content["ood"]["unseen groups"]["n_out"] == 60


def test_ood_sets_are_tied_to_methods(run, files):
    content = json.loads(
        run(
            "evaluate",
            files["a"],
            files["b"],
            "--ood",
            f"bayes:near={files['near_b']}",
            "--ood",
            f"plain:near={files['near_a']}",
            "--ood-score",
            "max_probability",
            "--json",
        ).out
    )
    for item, own in zip(content, ("a", "b"), strict=True):
        expected = evaluate(
            files[own], ood={"near": files[f"near_{own}"]}, ood_score="max_probability"
        )
        assert item["ood"]["near"]["auroc"]["value"] == expected.ood["near"].auroc.value
        assert item["ood"]["near"]["score"] == "max_probability"


@pytest.mark.parametrize(
    ("ood", "parts"),
    [
        ("near", ["--ood near", "NAME=FILE"]),
        ("near=", ["NAME=FILE"]),
        ("near={near_a}", ["which of the 2 methods", "METHOD:near=", "'plain', 'bayes'"]),
        ("plian:near={near_a}", ["unknown method 'plian'", "did you mean 'plain'"]),
        ("plain:near=missing.parquet", ["missing.parquet", "does not exist"]),
    ],
)
def test_wrong_ood_sets_are_refused(refused, files, ood, parts):
    message = refused("evaluate", files["a"], files["b"], "--ood", ood.format(**files))
    for part in parts:
        assert part in message


def test_compare_is_the_paired_comparison(run, files):
    table = run("compare", files["a"], files["b"], "--by", "ece")
    assert table.code == 0
    assert "plain (reference)" in table.out
    content = json.loads(
        run("compare", files["a"], files["b"], "--by", "ece", "--reference", "bayes", "--json").out
    )
    loaded = [Predictions.load(files[name]) for name in ("a", "b")]
    expected = compare(loaded, "ece", reference="bayes").to_json()
    assert content == json.loads(json.dumps(expected))


def test_compare_refuses_other_rows(refused, tmp_path, files):
    other = fake(tmp_path / "other.parquet", ids="elsewhere-")
    assert "different rows" in refused("compare", files["a"], other)
    assert "at least two" in refused("compare", files["a"])


PARTS = ["--group-by", "source", "--by-class", "--set", "cluster_by=twin"]


def with_columns(path, **parts):
    """Write predictions whose rows come in twins, from two sources."""
    twins = [f"t{row // 2}" for row in range(60)]
    sources = ["web" if row % 3 else "news" for row in range(60)]
    return fake(path, columns={"twin": twins, "source": sources}, **parts)


def test_groups_classes_and_clusters(run, refused, tmp_path):
    file = with_columns(tmp_path / "a.parquet")
    content = json.loads(run("evaluate", file, *PARTS, "--json").out)
    loaded = Predictions.load(file, columns=("source", "twin"))
    expected = evaluate(loaded, group_by="source", by_class=True, cluster_by="twin").to_json()
    assert content == json.loads(json.dumps({**expected, "file": str(file)}))
    shown = " ".join(run("evaluate", file, *PARTS).out.split())
    for part in ("news", "web", "Recall", "ECE by chance", "p = ", "clusters of equal 'twin'"):
        assert part in shown
    assert "sourse" in refused("evaluate", file, "--group-by", "sourse")
    assert "sourse" in refused("evaluate", file, "--set", "cluster_by=sourse")


def test_a_report_takes_the_same_parts_as_evaluate(run, refused, files, tmp_path):
    file = with_columns(tmp_path / "a.parquet")
    options = [*PARTS, "--ood", f"n={files['near_a']}"]
    assert "sourse" in refused("report", file, "--out", tmp_path / "no", "--group-by", "sourse")
    assert not (tmp_path / "no").exists()
    done = run("report", file, "--out", tmp_path / "r", *options)
    assert done.code == 0, done.err
    [method] = json.loads((tmp_path / "r" / "scores.json").read_text("utf-8"))["methods"]
    expected = json.loads(run("evaluate", file, *options, "--json").out)
    assert {key: method[key] for key in expected} == expected
    assert set(method["groups"]["source"]) == {"news", "web"}
    page = (tmp_path / "r" / "index.html").read_text("utf-8")
    for part in ("Groups and classes", "--group-by source --by-class"):
        assert part in page


def test_the_scores_to_print_are_chosen(run, refused, files):
    lines = run("evaluate", files["a"], "--scores", "aece,nll").out.splitlines()
    assert [line.split("  ")[0] for line in lines[2:4]] == ["ECE, equal-mass bins ↓", "NLL ↓"]
    assert "Accuracy ↑" not in "".join(lines)
    table = run("evaluate", files["a"], files["b"], "--scores", "aece,nll").out
    assert table.splitlines()[0].split("  ")[-1].strip() == "NLL ↓"
    assert "ECE, equal-mass bins" in run("evaluate", files["a"], "--all").out
    assert "did you mean 'cwece'" in refused("evaluate", files["a"], "--scores", "cwecce")
    assert "at least one score" in refused("evaluate", files["a"], "--scores", ",")


def test_compare_shows_corrected_p_values_and_how_they_are_made(run, tmp_path):
    pair = [with_columns(tmp_path / f"{name}.parquet", seed=n) for n, name in enumerate("ab")]
    options = ["--set", "cluster_by=twin"]
    content = json.loads(run("compare", *pair, *options, "--json").out)
    loaded = [Predictions.load(path, columns=("twin",)) for path in pair]
    expected = compare(loaded, cluster_by="twin").to_json()
    assert content == json.loads(json.dumps(expected))
    shown = run("compare", *pair, *options).out
    words = " ".join(shown.split())
    assert "Holm-corrected over 1 comparison with" in words
    assert "30 clusters of equal twin" in words
    assert "clusters exchanged, 1,999 permutations, seed 0" in words
    [row] = [row for row in content["rows"] if row["p"]]
    assert f"({p_text(row['p']['nll'])})" in shown


def test_compare_pools_seeds_unless_told_not_to(run, tmp_path):
    files = [
        fake(tmp_path / f"{name}-seed-{seed}.parquet", seed=10 * place + seed)
        for place, name in enumerate(("polar", "lora"))
        for seed in (0, 1)
    ]
    content = json.loads(run("compare", *files, "--json").out)
    assert {row["name"]: row["seeds"] for row in content["rows"]} == {
        "polar": ["0", "1"],
        "lora": ["0", "1"],
    }
    shown = run("compare", *files, "--reference", "lora").out
    assert "lora (2 seeds) (reference)" in shown
    assert "(2 seeds)" in shown
    apart = json.loads(run("compare", *files, "--no-over-seeds", "--json").out)
    assert len(apart["rows"]) == 4
    assert "2 seeds" not in run("compare", *files[:2]).out
