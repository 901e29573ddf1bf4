"""Images through the classifier: fit, posteriors, OOD scores, files, invalid options."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
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


@pytest.mark.parametrize(
    ("kind", "adapter", "max_length"),
    [
        ("vit", "polar:r=4", 32),
        ("vit", "lora:r=2", 5),  # smaller images than the backbone's
        ("dinov2", "polar:r=4", 32),
        ("dinov2", "none:pooling=mean", 5),
    ],
)
def test_a_merged_model_is_an_image_classifier_of_transformers(
    tmp_path, files, kind, adapter, max_length
):
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    backbone = tiny_vit(tmp_path / "backbone", kind=kind)
    options = {} if adapter.startswith("none") else {"epochs": 1, "batch_size": 8}
    clf = new(backbone, adapter, dtype="float32", max_length=max_length).fit(files[0], **options)
    out = tmp_path / "merged"
    clf.export_merged(out)
    rows = toy_images(tmp_path / "images", 6, seed=5, size=16)
    paths = [str(tmp_path / "images" / row["image"]) for row in rows]
    encoder = clf.network.encoder
    pixels = encoder.prepare(paths).tokens.pad(range(6))["pixel_values"]
    model = AutoModelForImageClassification.from_pretrained(out).eval()
    assert tuple(model.config.id2label.values()) == clf.classes
    with torch.no_grad():
        logits = model(pixel_values=pixels).logits.double()
    probs = clf.predict(paths, num_samples=0).probs
    torch.testing.assert_close(
        logits - logits.mean(1, keepdim=True),
        torch.from_numpy(np.log(probs) - np.log(probs).mean(1, keepdims=True)),
        atol=1e-5,
        rtol=1e-5,
    )
    # torchvision and Pillow round resized pixels differently.
    images = [Image.open(path) for path in paths]
    theirs = AutoImageProcessor.from_pretrained(out)(images, return_tensors="pt")["pixel_values"]
    assert (theirs - pixels).abs().max() < 3 / 255 / min(encoder.backbone.tokenizer.std)
    classify = pipeline("image-classification", str(out), device="cpu")
    answers = {answer["label"]: answer["score"] for answer in classify(paths[0])}
    assert answers == pytest.approx(dict(zip(clf.classes, probs[0], strict=True)), abs=0.02)
    clf.export_merged(out, overwrite=True)


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


def test_the_command_line_from_fit_to_report(vit, files, tmp_path, capsys):
    train, valid, test = files
    out = tmp_path / "model"
    fit = ("--backbone", vit, "--adapter", "lora:r=2", "--posterior", "mle", "--epochs", 1)
    assert run("fit", train, "--validation", valid, "--out", out, *fit, "--quiet") == 0
    predictions = tmp_path / "test.parquet"
    assert run("predict", out, test, "--out", predictions, "--quiet") == 0
    merged = tmp_path / "merged"
    assert run("export", out, "--format", "merged", "--out", merged) == 0
    assert "transformers.AutoModelForImageClassification" in capsys.readouterr().err
    report = tmp_path / "report"
    assert run("report", predictions, "--out", report, "--quiet") == 0
    assert "data:image/png;base64," in (report / "index.html").read_text()
