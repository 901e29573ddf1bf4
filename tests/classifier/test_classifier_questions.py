"""Questions with options from fit to file, in both formats, with every posterior."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from record_lm_eval import COUNT, FILE, SEED
from refusal import refused
from tiny import (
    lettered_llama,
    tiny_bert,
    tiny_llama,
    toy_next_items,
    toy_questions,
    toy_rows,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

import bayeslora as bl
from bayeslora.cli import main
from bayeslora.contrib.attacks import attacked
from bayeslora.data.examples import data_hash
from bayeslora.data.questions import with_shuffled_options
from bayeslora.data.read import read
from bayeslora.posteriors.registry import POSTERIORS


def nll(predictions):
    return bl.evaluate(predictions)["nll"].value


FORMATS = ("letters", "options")
SHORT = {"nuts": "nuts:num_chains=1,num_warmup=60,num_samples=60", "vbll": "vbll:prior_scale=2"}
REFUSED = {("options", "gvbll"), ("options", "prototypes")}
OPTIONS = {"progress": False, "max_length": 48}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(lettered_llama(tmp_path_factory.mktemp("questions") / "model"))


@pytest.fixture(scope="module")
def fitted(model):
    """Return a fitted classifier for each format."""
    return {
        format: bl.BayesianClassifier(
            model, "lora:r=2,lr=1e-2", "vbll:prior_scale=2", format=format, **OPTIONS
        ).fit(toy_questions(48), epochs=2, cv=0)
        for format in FORMATS
    }


@pytest.mark.parametrize("format", FORMATS)
def test_what_cross_validation_learnt_is_in_the_network(model, tmp_path, format):
    """The networks of the folds are averaged; a fresh one in their place would know nothing."""
    clf = bl.BayesianClassifier(model, posterior="vbll:prior_scale=2", format=format, **OPTIONS)
    clf.fit(toy_questions(48), epochs=2, cv=2, out=tmp_path / "model")
    assert clf.record.results["averaged"] == 2
    assert clf.record.results["adapter"]["delta_norm"] > 0


PAIRS = [("options", name) for name in POSTERIORS]
# With letters, last layers and draws are those for classes: one posterior of each kind.
PAIRS += [("letters", name) for name in ("vbll", "gvbll", "laplace_lora", "ensemble", "blob")]


@pytest.mark.parametrize(("format", "name"), PAIRS)
def test_every_posterior_answers_or_says_why_not(model, tmp_path, format, name):
    clf = bl.BayesianClassifier(
        model, "lora:r=2,lr=1e-2", SHORT.get(name, name), format=format, **OPTIONS
    )
    train, validation = toy_questions(36), toy_questions(18, 1)
    if (format, name) in REFUSED:
        with refused("not-on-options", f"'{name}'"):
            clf.fit(train, validation, epochs=1)
        return
    clf.fit(train, validation, epochs=1)
    predictions = clf.predict(
        toy_questions(12, 2), num_samples=2 if clf.posterior.is_sampled else None
    )
    assert predictions.classes == ("A", "B", "C")
    absent = ~predictions.available
    assert not predictions.probs[absent].any()
    assert absent.sum() == sum(len(row["choices"]) == 2 for row in toy_questions(12, 2))
    assert np.isfinite([predictions.scores[score] for score in ("logit_variance", "energy")]).all()
    clf.save_pretrained(tmp_path / "saved")
    again = bl.BayesianClassifier.from_pretrained(tmp_path / "saved", progress=False)
    samples = 2 if clf.posterior.is_sampled else None
    np.testing.assert_array_equal(
        again.predict(toy_questions(12, 2), num_samples=samples).probs, predictions.probs
    )


def test_candidates_are_compared_on_options(model):
    clf = bl.BayesianClassifier(model, "none", "mle", format="options", **OPTIONS)
    clf.fit(toy_questions(24)).calibrate(toy_questions(48, 1), posterior="best")
    names = {row.name for row in clf.side_by_side.comparison.rows}
    assert names == {"mle", "temperature", "laplace", "vbll"}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("adapter", ["none", "polar:r=2", "pissa:r=2"])
def test_other_adapters_answer_too(model, format, adapter):
    clf = bl.BayesianClassifier(model, adapter, "laplace", format=format, **OPTIONS)
    clf.fit(toy_questions(24), **({} if adapter == "none" else {"epochs": 1}))
    assert len(clf.predict(toy_questions(6, 2))) == 6


def test_an_encoder_reads_options(tmp_path):
    model = str(tiny_bert(tmp_path / "model"))
    clf = bl.BayesianClassifier(model, "lora:r=2", "vbll:prior_scale=2", **OPTIONS)
    predictions = clf.fit(toy_questions(24), epochs=1, cv=0).predict(toy_questions(6, 2))
    assert clf.record.backbone["format"] == "options"
    assert predictions.available is not None


@pytest.mark.parametrize("format", FORMATS)
def test_a_question_has_the_same_answer_whatever_is_beside_it(fitted, format):
    clf, rows = fitted[format], toy_questions(10, 3)
    together = clf.predict(rows, num_samples=0)
    for place in (0, 5):
        alone = clf.predict([rows[place]], num_samples=0)
        count = len(rows[place]["choices"])
        np.testing.assert_allclose(alone.probs[0, :count], together.probs[place, :count], atol=1e-6)


def test_answers_in_two_formats_are_compared_with_a_warning(fitted, caplog):
    rows = toy_questions(10, 3)
    answers = [fitted[name].predict(rows, num_samples=0).replace(name=name) for name in FORMATS]
    assert [item.metadata["question_format"] for item in answers] == list(FORMATS)
    bl.compare(answers, num_resamples=20)
    (record,) = [item for item in caplog.records if "formats" in item.message]
    assert {*FORMATS} <= {*record.message.replace(",", " ").replace(")", " ").split()}
    caplog.clear()
    bl.compare([answers[0], answers[0].replace(name="again")], num_resamples=20)
    assert not [item for item in caplog.records if "formats" in item.message]


def test_an_order_of_options_is_as_good_as_another(fitted):
    clf, rows = fitted["options"], toy_questions(8, 4)
    turned = [row | {"choices": row["choices"][::-1]} for row in rows]
    for row in turned:
        row["answer"] = len(row["choices"]) - 1 - row["answer"]
    predictions, moved = (clf.predict(data, num_samples=0) for data in (rows, turned))
    for place, row in enumerate(rows):
        count = len(row["choices"])
        np.testing.assert_allclose(
            moved.probs[place, :count][::-1], predictions.probs[place, :count], atol=1e-6
        )


def test_options_may_be_more_than_those_of_the_fit_and_letters_may_not(fitted):
    row = {
        "id": "wide",
        "question": "cat dog",
        "choices": ["cat", "rain", "soup", "snow"],
        "answer": 0,
    }
    predictions = fitted["options"].predict([row, *toy_questions(2, 5)])
    assert predictions.classes == ("A", "B", "C", "D")
    assert predictions.probs[0].min() > 0
    with refused("input", "row 1", "4 options"):
        fitted["letters"].predict([row])


def test_another_posterior_is_fitted_to_questions(fitted):
    clf = fitted["options"]
    before = clf.predict(toy_questions(6, 2))
    again = bl.BayesianClassifier(
        clf._backbone, "lora:r=2,lr=1e-2", "mle", format="options", **OPTIONS
    ).fit(toy_questions(48), epochs=1)
    again.calibrate(toy_questions(48), posterior="laplace")
    assert again.record.posterior["name"] == "laplace"
    again.calibrate(toy_questions(48), posterior="best")
    assert again.predict(toy_questions(6, 2)).probs.shape == before.probs.shape


@torch.no_grad()
@pytest.mark.parametrize("format", FORMATS)
def test_without_a_label_the_answers_are_lm_evaluation_harnesss(model, format):
    """Compare with its log-likelihoods of letters, or of options divided by their tokens."""
    rows = toy_questions(COUNT, SEED)
    recorded = iter(json.loads(Path(FILE).read_text())[format])
    clf = bl.BayesianClassifier(model, format=format, progress=False, dtype="float32")
    predictions = clf.zero_shot(texts=rows).predict(rows)
    for place, row in enumerate(rows):
        options = row["choices"]
        scores = np.array([next(recorded) for _ in options])
        if format == "options":  # for the tiny tokenizer, a word is a token
            scores /= [len(option.split()) for option in options]
        expected = np.exp(scores - np.logaddexp.reduce(scores))
        np.testing.assert_allclose(predictions.probs[place, : len(options)], expected, atol=1e-5)
    assert next(recorded, None) is None


def test_words_for_letters_are_used_and_checked(model):
    rows = [{**row, "choices": row["choices"][:2], "answer": 0} for row in toy_questions(6)]

    def answers(verbaliser, backbone=model):
        options = {"format": "letters", "dtype": "float32", "progress": False}
        clf = bl.BayesianClassifier(backbone, verbaliser=verbaliser, **options)
        return clf.zero_shot(texts=rows).predict(rows).probs

    probs = answers({"A": "B", "B": "A"})
    np.testing.assert_allclose(probs, answers(None)[:, ::-1], atol=1e-6)
    with refused("input", "C"):
        answers({"C": "B"}, "/nowhere")


def blanks(n, seed=0):
    """Return questions whose options fill a blank, as in WinoGrande."""
    return [
        {**row, "question": f"the {row['question']} _ is here", "choices": row["choices"][:2]}
        | {"answer": row["answer"] % 2}
        for row in toy_questions(n, seed)
    ]


def test_a_sentence_with_a_blank_is_filled(model, tmp_path):
    rows = blanks(12, 4)
    clf = bl.BayesianClassifier(model, progress=False, dtype="float32", max_length=48)
    predictions = clf.zero_shot(texts=rows).predict(rows)
    assert clf.record.backbone["template"] == "Sentence: {filled}"
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model).eval()
    for place, row in enumerate(rows):
        before, _, after = row["question"].partition(" _")
        scores = []
        for option in row["choices"]:
            ids = tokenizer(f"Sentence: {before} {option}{after}", return_tensors="pt")["input_ids"]
            with torch.no_grad():
                logs = network(ids).logits[0].log_softmax(-1)
            scores.append(logs[torch.arange(-3, -1), ids[0, -2:]].mean())  # "is here"
        expected = torch.stack(scores).softmax(0)
        np.testing.assert_allclose(predictions.probs[place], expected, atol=1e-5)

    clf = bl.BayesianClassifier(model, "lora:r=2,lr=1e-2", "vbll:prior_scale=2", **OPTIONS)
    predictions = clf.fit(blanks(24), blanks(8, 2), epochs=1).predict(rows)
    clf.save_pretrained(tmp_path / "model")
    again = bl.BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    np.testing.assert_array_equal(again.predict(rows).probs, predictions.probs)
    assert again.record.backbone["template"] == "Sentence: {filled}"
    assert len(again.predict(toy_questions(3))) == 3


def test_only_what_fills_every_blank_is_read_so(model, tmp_path):
    mixed = [*blanks(12), *toy_questions(12, 1)]
    clf = bl.BayesianClassifier(model, "none", "map", **OPTIONS).fit(mixed)
    assert clf.record.backbone["template"] == "Question: {text}\nAnswer:"
    explicit = bl.BayesianClassifier(model, "none", "map", template="So {filled}", **OPTIONS)
    assert len(explicit.fit(mixed).predict(mixed)) == 24
    for template in ("{filled}", "So {filled}.", "{text} {filled}"):
        with refused("input", "template", template):
            bl.BayesianClassifier(model, template=template)
    wrong = {"format": "letters", "template": "So {filled}"}
    with refused("input", "{filled}", "'options'"):
        bl.BayesianClassifier(model, "none", "map", **wrong, **OPTIONS).fit(blanks(12))
    with refused("input", "{filled}", "'options'"):
        bl.BayesianClassifier(model, "none", "map", template="So {filled}").fit(toy_rows(12))
    encoder = str(tiny_bert(tmp_path / "bert"))
    with refused("input", "{filled}", "--template"):
        bl.BayesianClassifier(encoder, "none", "map", template="So {filled}").fit(blanks(12))
    assert (
        "template"
        not in bl.BayesianClassifier(encoder, "none", "map").fit(blanks(12)).record.backbone
    )


def test_the_first_step_starts_at_the_language_models_answer(model):
    rows = toy_questions(20, 6)
    zero_shot = bl.BayesianClassifier(model, **OPTIONS, dtype="float32").zero_shot(texts=rows)
    clf = bl.BayesianClassifier(
        model, "lora:r=2,lr=1e-12", "mle", **OPTIONS, dtype="float32", format="options"
    ).fit(rows, epochs=1, head_lr=1e-12)
    np.testing.assert_allclose(clf.predict(rows).probs, zero_shot.predict(rows).probs, atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_an_adapter_is_exported_and_a_classifier_of_questions_is_not(fitted, tmp_path, format):
    fitted[format].export_peft(tmp_path / "peft")
    assert (tmp_path / "peft" / "adapter_config.json").exists()
    with refused("input", "--format peft"):
        fitted[format].export_merged(tmp_path / "merged")


def test_the_record_says_how_questions_are_read(fitted):
    for format in FORMATS:
        reading = fitted[format].record.backbone
        assert reading["format"] == format
        assert len(reading["prompt_sha256"]) == 64
        assert "{text}" in reading["template"]
    hashes = {fitted[format].record.backbone["prompt_sha256"] for format in FORMATS}
    assert len(hashes) == 2


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_questions_from_the_command_line(model, tmp_path, capsys):
    train = _write(tmp_path / "train.jsonl", toy_questions(30))
    test = _write(tmp_path / "test.jsonl", toy_questions(12, 1))
    out = str(tmp_path / "model")
    options = ["--backbone", model, "--adapter", "lora:r=2", "--epochs", "1", "--cv", "0"]
    assert main(["fit", train, "--out", out, *options, "--max-length", "48", "--quiet"]) == 0
    assert main(["predict", out, test, "--out", str(tmp_path / "p.csv"), "--quiet"]) == 0
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["prob_C"] == "" for row in rows} == {True, False}
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "p.csv"), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["n"] == 12 if isinstance(scores, dict) else scores[0]["n"] == 12


def test_a_model_remembers_the_columns_of_a_description(model, tmp_path, capsys):
    def renamed(rows):
        return [
            {"stem": row["question"], "options": row["choices"], "key": row["answer"]}
            for row in rows
        ]

    train = _write(tmp_path / "train.jsonl", renamed(toy_questions(30)))
    test = _write(tmp_path / "test.jsonl", renamed(toy_questions(12, 1)))
    about = tmp_path / "task.yaml"
    about.write_text("question: stem\nchoices: options\nanswer: key\n")
    out = str(tmp_path / "model")
    options = ["--backbone", model, "--adapter", "none", "--posterior", "map", "--max-length", "48"]
    assert main(["fit", train, "--task", str(about), "--out", out, *options, "--quiet"]) == 0
    columns = json.loads((tmp_path / "model" / "bayeslora.json").read_text())["columns"]
    assert columns == {"text": "stem", "label": "key", "pair": None, "choices": "options"}
    files = [str(tmp_path / name) for name in ("a.csv", "b.csv")]
    assert main(["predict", out, test, "--out", files[0], "--quiet"]) == 0
    task = ["--task", str(about), "--quiet"]
    assert main(["predict", out, test, "--out", files[1], *task]) == 0
    assert Path(files[0]).read_text() == Path(files[1]).read_text()
    usual = _write(tmp_path / "usual.jsonl", toy_questions(12, 1))
    assert main(["predict", out, usual, "--out", files[1], "--overwrite", "--quiet"]) == 0
    again = ["calibrate", out, train, "--posterior", "laplace", "--quiet"]
    assert main([*again, "--out", str(tmp_path / "laplace")]) == 0
    clf = bl.BayesianClassifier.from_pretrained(tmp_path / "laplace", progress=False)
    assert clf.predict(test).classes == ("A", "B", "C")
    assert len(clf.calibrate(train, posterior="mle").predict(test)) == 12


def test_a_model_records_which_rows_of_a_known_task_were_left_out(model, tmp_path):
    folder = tmp_path / "openbookqa"
    folder.mkdir()
    train, test = toy_questions(20), toy_questions(4, 1)
    lines = [
        {"answer_index": row["answer"], **{key: row[key] for key in ("id", "question", "choices")}}
        for row in [*train, {**train[0], "id": "again"}, {**test[0], "id": "seen"}]
    ]
    _write(folder / "train.jsonl", lines)
    _write(folder / "test.jsonl", [{**row, "answer_index": row["answer"]} for row in test])
    rows = bl.load_task("openbookqa", "train", tmp_path)
    dropped = {"repeated": 1, "in test too": 1}
    clf = bl.BayesianClassifier(model, "none", "map", **OPTIONS)
    clf.fit(rows, hold_out=0.2, out=tmp_path / "model")
    assert clf.record.num_train == 16
    assert json.loads((tmp_path / "model" / "bayeslora.json").read_text())["dropped"] == {
        "train": dropped
    }
    again = bl.BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    assert again.record.dropped == {"train": dropped}
    assert again.calibrate(toy_questions(12), posterior="laplace").record.dropped == {}
    assert again.calibrate(rows, posterior="laplace").record.dropped == {"train": dropped}


def test_questions_are_no_texts_to_classify(model, tmp_path, capsys):
    train = _write(tmp_path / "train.jsonl", toy_questions(12))
    words = ["fit", train, "--task", "text-classification", "--out", str(tmp_path / "model")]
    assert main([*words, "--backbone", model, "--quiet"]) == 2
    assert "'text'" in capsys.readouterr().err


def test_a_quiet_fit_shows_no_bar_of_transformers(tmp_path, capfd):
    train = _write(tmp_path / "train.jsonl", toy_questions(12))
    model = str(tiny_llama(tmp_path / "untied", tie_word_embeddings=False))
    options = ["--backbone", model, "--adapter", "none", "--posterior", "map", "--max-length", "48"]
    capfd.readouterr()
    assert main(["fit", train, "--out", str(tmp_path / "model"), *options, "--quiet"]) == 0
    assert capfd.readouterr().err == ""


def test_the_unknown_token_is_no_letter(model):
    rows = [{**row, "choices": [*"vwxyz"], "answer": 0} for row in toy_questions(12)]
    clf = bl.BayesianClassifier(model, "none", "map", format="letters", **OPTIONS)
    with refused("input", "'E'"):
        clf.fit(rows)


BAD = [
    (("--format", "letters"), toy_rows(6), "format"),
    (("--depth", "2"), None, "all layers"),
    (("--verbaliser", "A=cat"), None, "verbaliser"),
    (("--feature-scores", "mahalanobis"), None, "feature"),
    (("--posterior", "gvbll:shrinkage=0.5,inflation=1"), None, "gvbll"),
    (("--posterior", "vbll:covariance=eigenbasis"), None, "eigenbasis"),
]


@pytest.mark.parametrize(("options", "rows", "why"), BAD)
def test_what_cannot_be_is_refused(model, tmp_path, capsys, options, rows, why):
    train = _write(tmp_path / "train.jsonl", toy_questions(12) if rows is None else rows)
    out = tmp_path / "model"
    words = ["fit", train, "--out", str(out), "--backbone", model, "--quiet", *options]
    assert main(words) == 2
    assert why in capsys.readouterr().err
    assert not out.exists()


def test_a_model_of_texts_takes_no_questions_and_the_reverse(fitted, model):
    texts = bl.BayesianClassifier(model, "none", "mle", **OPTIONS).fit(toy_rows(9))
    with refused("input", "--text-column"):
        texts.predict(toy_questions(3))
    with refused("input", "'choices'"):
        fitted["options"].predict(toy_rows(3))


@pytest.mark.parametrize("format", FORMATS)
def test_questions_are_attacked(fitted, format):
    worse = attacked(fitted[format], toy_questions(12, 2), "eps=1,steps=4,restarts=1")[1.0]
    assert nll(worse) > nll(fitted[format].predict(toy_questions(12, 2)))


def test_no_token_of_an_option_is_perturbed(fitted):
    from bayeslora.backbones.perturbation import open_inputs

    encoder = fitted["options"].network.encoder
    questions = toy_questions(2, 2)
    texts = encoder.prepare(
        [row["question"] for row in questions], choices=[row["choices"] for row in questions]
    )
    opened = open_inputs(encoder, texts, [0, 1])
    moved = opened.ball.radius[..., 0] > 0
    assert moved.any(1).all()
    assert not moved[opened.rest["groups"] != 0].any()


def test_half_of_the_layers_adapt_where_a_language_model_scores_options(model, monkeypatch):
    for module in ("adapters.base", "engine.settle"):
        monkeypatch.setattr(f"bayeslora.{module}.USUAL_LAYERS", 1)
    monkeypatch.setattr("bayeslora.engine.settle.num_layers", lambda _: 5)

    def adapted(adapter, format, rows):
        clf = bl.BayesianClassifier(model, adapter, "mle", format=format, **OPTIONS)
        return clf.fit(rows, epochs=1, cv=0).record.adapter["num_layers"]

    questions = toy_questions(12)
    assert adapted("lora:r=2", "options", questions) == 2
    assert adapted("lora:r=2,num_layers=1", "options", questions) == 1
    assert adapted("lora:r=2", "letters", questions) == 1
    assert adapted("lora:r=2", None, toy_rows(12)) == 1


def first_is_right(n, seed=0):
    """Return next items whose answer is always the first candidate."""
    rows = []
    for row in toy_next_items(n, seed):
        others = [item for item in row["candidates"] if item != row["answer"]]
        rows.append({**row, "candidates": [row["answer"], *others]})
    return rows


def test_the_position_of_the_next_item_gives_nothing_away_in_letters(model):
    """Shuffled rows, as questions with a fixed order, give the same fit in every bit."""
    rows, test = first_is_right(36), first_is_right(12, 1)
    known, shown = read(rows), read(test)
    shuffled = replace(with_shuffled_options(known, 0), history=None)
    assert len({*shuffled.labels}) == 4

    def fitted_to(data, format="letters"):
        clf = bl.BayesianClassifier(model, "none", "laplace", format=format, **OPTIONS)
        return clf.fit(data)

    clf = fitted_to(known)
    predictions, expected = (part.predict(shown) for part in (clf, fitted_to(shuffled)))
    np.testing.assert_array_equal(predictions.probs, expected.probs)
    assert predictions.columns["choices"][0] == json.dumps(test[0]["candidates"])

    as_questions = replace(known, history=None)
    by_position = fitted_to(as_questions)
    clf.calibrate(known, posterior="map")
    by_position.calibrate(as_questions, posterior="map")
    assert by_position.predict(shown).probs[:, 0].mean() > 0.7
    assert clf.predict(shown).probs[:, 0].mean() < 0.5
    assert clf.record.data["train"] == data_hash(known)  # of the rows as the user has them
    same = (fitted_to(data, "options").predict(shown).probs for data in (known, as_questions))
    np.testing.assert_array_equal(*same)


@torch.no_grad()
def vocabulary_share(model, rows):
    """Return the mean probability of a row's letters as next token, from transformers."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model).eval()
    shares = []
    for row in rows:
        options = row["choices"]
        lines = "\n".join(f"{'ABCD'[k]}) {text}" for k, text in enumerate(options))
        prompt = f"Pick the correct option.\nQuestion: {row['question']}\n{lines}\nAnswer:"
        logits = network(**tokenizer(prompt, return_tensors="pt")).logits[0, -1].double()
        letters = tokenizer.convert_tokens_to_ids(list("ABCD"[: len(options)]))
        shares.append(logits.softmax(-1)[letters].sum().item())
    return np.mean(shares)


def test_the_share_of_the_letters_in_the_vocabulary_is_recorded(model, tmp_path, caplog):
    rows, validation = toy_questions(12), toy_questions(8, 1)
    caplog.set_level("INFO", logger="bayeslora.engine.formats")

    def new(adapter, **more):
        clf = bl.BayesianClassifier(
            model, adapter, "map", format="letters", dtype="float32", **OPTIONS, **more
        )
        return clf.fit(rows, validation, **({"epochs": 1} if adapter.startswith("lora") else {}))

    frozen = new("none")
    expected = vocabulary_share(model, validation)
    assert frozen.record.results["letter_mass"] == pytest.approx(expected, rel=1e-4)
    assert f"{expected:.3g}" in caplog.text
    untrained = bl.BayesianClassifier(model, format="letters", dtype="float32", **OPTIONS)
    mass = untrained.zero_shot(texts=validation).record.results["letter_mass"]
    assert mass == pytest.approx(expected, rel=1e-4)
    assert new("lora:r=2,lr=1e-2").record.results["letter_mass"] != pytest.approx(expected, 1e-4)
    frozen.calibrate(rows, posterior="laplace").save_pretrained(tmp_path / "model")
    again = bl.BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    assert again.record.results["letter_mass"] == frozen.record.results["letter_mass"]
    others = new("none", depth=2), new("none:pooling=mean"), new("none", verbaliser="none")
    for clf in others:
        assert "letter_mass" not in clf.record.results
