"""Vision models as backbones: features, cached lower layers, sizes, scaling of pixels."""

import json

import numpy as np
import pytest
import torch
from tiny import tiny_vit, toy_images

from bayeslora.backbones.encoder import Encoder
from bayeslora.backbones.images import ImageReader, read_pixels, size_for
from bayeslora.backbones.load import load_backbone


@pytest.fixture(scope="module", params=["dinov2", "vit"])
def vit(request, tmp_path_factory):
    path = tiny_vit(tmp_path_factory.mktemp("models") / request.param, kind=request.param)
    return load_backbone(str(path), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return [str(folder / row["image"]) for row in toy_images(folder, 6)]


def layers(backbone):
    return "encoder.layer" if hasattr(backbone.model, "encoder") else "layers"


def test_features_are_those_of_the_model(vit, images):
    encoder = Encoder(vit, layers_path="", start=0, max_length=17)
    prepared = encoder.prepare(images)
    values = ImageReader().scaled(np.stack(prepared.tokens.ids))
    with torch.no_grad():
        states = vit.model(pixel_values=values).last_hidden_state
    torch.testing.assert_close(encoder.features(prepared), states[:, 0])
    mean = Encoder(vit, layers_path="", start=0, max_length=17, pooling="mean")
    torch.testing.assert_close(mean.features(prepared), states[:, 1:].mean(1))


def test_cached_lower_layers_change_nothing(vit, images):
    whole = Encoder(vit, layers_path="", start=0, max_length=17)
    upper = Encoder(vit, layers_path=layers(vit), start=1, max_length=17)
    assert upper.first_running_layer == 1
    result = upper.features(upper.prepare(images))
    assert torch.equal(result, whole.features(whole.prepare(images)))


@pytest.mark.parametrize(
    ("max_length", "side", "tokens"), [(1, 2, 2), (5, 4, 5), (12, 6, 10), (17, 8, 17), (99, 8, 17)]
)
def test_an_image_has_at_most_so_many_tokens(vit, max_length, side, tokens):
    assert size_for(vit.model.config, max_length) == (side, tokens)


def test_pixels_are_scaled_as_the_model_asks(tmp_path, images):
    path = tiny_vit(tmp_path / "vit")
    (path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 1.0]})
    )
    backbone = load_backbone(str(path), dtype="float32", device="cpu")
    pixels = read_pixels(images[:1], backbone.tokenizer, backbone.model.config, max_length=17)
    raw = torch.from_numpy(pixels.ids[0]).permute(2, 0, 1).double() / 255
    expected = (raw - 0.5) / torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64).view(3, 1, 1)
    torch.testing.assert_close(pixels.pad([0])["pixel_values"][0].double(), expected)
    backbone.tokenizer.save_pretrained(tmp_path)
    assert ImageReader.of(str(tmp_path)) == backbone.tokenizer
