"""Images through the classifier: fit, posteriors, OOD scores, files, invalid options."""

import json

import numpy as np
import pytest
from tiny import tiny_bert, tiny_vit, toy_images, toy_rows
from usage import load, new, same

from bayeslora.cli import main
from bayeslora.errors import InputError

pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return tiny_vit(tmp_path_factory.mktemp("models") / "vit")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write training, validation and test images as files of paths."""
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for seed, (name, count) in enumerate((("train", 60), ("valid", 15), ("test", 15))):
        rows = toy_images(folder / "png", count, seed=seed)
        lines = [f"png/{row['image']},{row['label']}" for row in rows]
        paths.append(folder / f"{name}.csv")
        paths[-1].write_text("\n".join(["image,label", *lines]) + "\n")
    return paths


@pytest.fixture(scope="module")
def fitted(vit, files):
    train, valid, _ = files
    return new(vit, "polar:r=4,lr=1e-2").fit(train, valid, epochs=8, batch_size=8)


def test_images_are_learnt(fitted, files):
    predictions = fitted.predict(files[2])
    assert (predictions.prediction == predictions.labels).mean() > 0.6
    assert {"unfamiliarity", "mahalanobis"} <= predictions.scores.keys()
    assert fitted.record.columns["image"] == "image"


def test_a_saved_classifier_predicts_the_same(fitted, files, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    again = load(tmp_path / "model")
    assert same(again.predict(files[2]), fitted.predict(files[2]))
    assert json.loads((tmp_path / "model" / "preprocessor_config.json").read_text())


def test_paths_alone_are_predicted(fitted, files):
    folder = files[2].parent / "png"
    paths = [str(folder / "2-0.png"), str(folder / "2-1.png")]
    whole = fitted.predict(files[2]).probs[:2]
    np.testing.assert_allclose(fitted.predict(paths).probs, whole, atol=1e-6)
    np.testing.assert_allclose(fitted.predict(paths[0]).probs, whole[:1], atol=1e-6)


def test_images_need_a_vision_model_and_texts_none(vit, files, fitted, tmp_path):
    with pytest.raises(InputError):
        new(tiny_bert(tmp_path / "bert")).fit(files[0], epochs=1)
    with pytest.raises(InputError):
        new(vit).fit(toy_rows(12), epochs=1)
    with pytest.raises(InputError):
        fitted.predict(toy_rows(3))
    with pytest.raises(InputError):
        fitted.fit(files[0], toy_rows(12), epochs=1)


def run(*args):
    with pytest.raises(SystemExit) as caught:
        raise SystemExit(main([*map(str, args)]))
    return caught.value.code or 0


def test_the_command_line_from_fit_to_report(vit, files, tmp_path):
    train, valid, test = files
    out = tmp_path / "model"
    fit = ("--backbone", vit, "--adapter", "lora:r=2", "--posterior", "mle", "--epochs", 1)
    assert run("fit", train, "--validation", valid, "--out", out, *fit, "--quiet") == 0
    predictions = tmp_path / "test.parquet"
    assert run("predict", out, test, "--out", predictions, "--quiet") == 0
    report = tmp_path / "report"
    assert run("report", predictions, "--out", report, "--quiet") == 0
    assert "data:image/png;base64," in (report / "index.html").read_text()
