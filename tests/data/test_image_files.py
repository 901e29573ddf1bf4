"""Images from folders and files: accepted and refused input."""

import numpy as np
import pytest
from PIL import Image
from refusal import refused

from bayeslora.data.columns import DataColumns
from bayeslora.data.images import read_image
from bayeslora.data.known import load_task
from bayeslora.data.read import read
from bayeslora.errors import InputError


def write(path, value=7, shape=(4, 5, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, dtype=np.uint8)).save(path)
    return path


def test_a_folder_of_one_folder_per_class(tmp_path):
    for name in ("cat/a.png", "cat/deep/b.png", "dog/a.png"):
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    rows = read(tmp_path)
    assert rows.images
    assert rows.labels == ("cat", "cat", "dog")
    assert rows.texts == tuple(
        str(tmp_path / name) for name in ("cat/a.png", "cat/deep/b.png", "dog/a.png")
    )


def test_what_is_no_path_is_no_image():
    for value in (None, 7, " "):
        with refused("input", "image") as caught:
            read([{"image": value, "label": "a"}])
        assert "text" not in str(caught.value)


def test_a_missing_column_may_be_one_of_images():
    rows = [{"file": "a.png", "label": "a"}]
    with refused("unknown", "--image-column"):
        read(rows)


@pytest.mark.parametrize("name", ["a.csv", "b.jsonl"])
def test_paths_are_relative_to_the_file(tmp_path, name):
    write(tmp_path / "pictures" / "1.png")
    text = {
        "a.csv": "image,label\npictures/1.png,x\n",
        "b.jsonl": '{"image": "pictures/1.png", "label": "x"}\n',
    }[name]
    (tmp_path / name).write_text(text)
    rows = read(tmp_path / name)
    assert rows.texts == (str(tmp_path / "pictures" / "1.png"),)
    assert rows.images


def test_the_column_can_be_named(tmp_path):
    path = write(tmp_path / "1.png")
    rows = read(
        [{"text": "a note", "picture": str(path)}], columns=DataColumns("picture", images=True)
    )
    assert rows.texts == (str(path),)


def test_grey_and_transparent_images_become_colours(tmp_path):
    Image.new("LA", (3, 2), (40, 255)).save(tmp_path / "a.png")
    assert read_image(str(tmp_path / "a.png")).tolist() == [[[40, 40, 40]] * 3] * 2


@pytest.mark.parametrize("damage", ["missing", "text", "cut"])
def test_an_image_that_cannot_be_read_is_named_with_its_row(tmp_path, damage):
    write(tmp_path / "good.png")
    bad = tmp_path / "bad.png"
    if damage == "text":
        bad.write_text("no image")
    elif damage == "cut":
        bad.write_bytes(write(tmp_path / "big.png", shape=(60, 60, 3)).read_bytes()[:90])
    table = tmp_path / "rows.csv"
    table.write_text("image,label\ngood.png,x\nbad.png,y\n")
    with pytest.raises(InputError) as caught:
        read(table)
    assert "row 3" in str(caught.value)
    assert str(bad) in str(caught.value)


def test_the_digits_are_a_known_task():
    parts = {name: load_task("digits", name) for name in ("train", "validation", "test")}
    assert [len(part) for part in parts.values()] == [1000, 297, 500]
    assert len({text for part in parts.values() for text in part.texts}) == 1797
    assert {*parts["test"].labels} == {*"0123456789"}
    assert read_image(parts["test"].texts[0]).shape == (8, 8, 3)
    assert parts["test"].images
