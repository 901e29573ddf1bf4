"""Parquet files: every flipped bit is detected; files from other programs are accepted."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refusal import refused

from bayeslora.data.read import read
from bayeslora.errors import InputError
from bayeslora.predictions.record import Predictions


def made(rows=12):
    generator = np.random.default_rng(0)
    return Predictions(
        generator.dirichlet(np.ones(3), size=rows),
        ["a", "b", "ç"],
        labels=generator.integers(-1, 3, size=rows),
        ids=[f"row-{i}" for i in range(rows)],
        epistemic=generator.random(rows),
        scores={"knn": generator.random(rows)},
        columns={"text": [f"text {i}" for i in range(rows)]},
        name="lora-laplace",
        metadata={"seed": "3", "link": "mc"},
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("sealed") / "p.parquet"
    made().save(path)
    return path.read_bytes()


def flipped(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def is_refused(path, content):
    """Return whether a file with these bytes is refused, with a message that names it."""
    path.write_bytes(content)
    try:
        Predictions.load(path, columns=["text"])
    except InputError as error:
        return str(path) in str(error)
    return False


def test_one_flipped_bit_of_the_values_is_refused(saved, tmp_path):
    path = tmp_path / "p.parquet"
    end = saved.rindex(b"lora-laplace") // 2  # the footer follows the pages
    bits = np.random.default_rng(0).choice(8 * end, 100, replace=False)
    whole = made()
    for bit in bits.tolist():
        if not is_refused(path, flipped(saved, bit)):
            loaded = Predictions.load(path)
            assert np.array_equal(loaded.probs, whole.probs), bit


def test_a_file_that_another_program_rewrote_is_read_with_its_notes(saved, tmp_path):
    path = tmp_path / "p.parquet"
    path.write_bytes(saved)
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 5), tmp_path / "rewritten.parquet")
    loaded = Predictions.load(tmp_path / "rewritten.parquet")
    assert (len(loaded), loaded.name, loaded.metadata["seed"]) == (5, "lora-laplace", "3")
    assert np.array_equal(loaded.probs, made().probs[:5])


def test_page_checksums_of_other_programs_are_checked(tmp_path):
    path = tmp_path / "t.parquet"
    texts = pa.table({"text": ["one text", "another text"]})
    pq.write_table(texts, path, compression="none", write_page_checksum=True)
    path.write_bytes(path.read_bytes().replace(b"another text", b"a mother text"[:12], 1))
    with refused("input", "t.parquet"):
        read(path)
