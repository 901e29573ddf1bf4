"""Parquet files: every flipped bit is detected; files from other programs are accepted."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused

from bayeslora.errors import InputError
from bayeslora.predictions.record import Predictions
from bayeslora.tables.parquet import is_intact
from bayeslora.tasks.readers import load_examples


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


def test_one_flipped_bit_is_refused_wherever_it_is(saved, tmp_path):
    path = tmp_path / "p.parquet"
    bits = np.random.default_rng(0).choice(8 * len(saved), 400, replace=False)
    accepted = [int(bit) for bit in bits if not is_refused(path, flipped(saved, int(bit)))]
    assert accepted == []


def test_one_flipped_bit_of_the_footers_end_is_refused(saved, tmp_path):
    """The end holds the hash, its name, the columns' names and types, and the total length."""
    path = tmp_path / "p.parquet"
    seal = saved.rindex(b"bayeslora.sha256")
    bits = range(8 * (seal - 4), 8 * (seal + 102), 3)
    assert [bit for bit in bits if not is_refused(path, flipped(saved, bit))] == []
    ends = range(8 * (len(saved) - 8), 8 * len(saved))
    assert [bit for bit in ends if not is_refused(path, flipped(saved, bit))] == []


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_damaged_stretch_is_refused(saved, tmp_path_factory, data):
    start = data.draw(st.integers(0, len(saved) - 1))
    length = data.draw(st.integers(1, 600))
    content = saved[:start] + bytes(length) + saved[start + length :]
    path = tmp_path_factory.getbasetemp() / "stretch.parquet"
    assert content == saved or is_refused(path, content)


def test_a_file_that_another_program_rewrote_is_read_with_its_notes(saved, tmp_path):
    path = tmp_path / "p.parquet"
    path.write_bytes(saved)
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 5), tmp_path / "rewritten.parquet")
    loaded = Predictions.load(tmp_path / "rewritten.parquet")
    assert (len(loaded), loaded.name, loaded.metadata["seed"]) == (5, "lora-laplace", "3")
    assert np.array_equal(loaded.probs, made().probs[:5])


def test_files_without_a_hash_are_intact(tmp_path):
    plain = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"prob_a": [0.5], "prob_b": [0.5]}), plain)
    assert is_intact(plain)
    (tmp_path / "short").write_bytes(b"PAR1")
    assert is_intact(tmp_path / "short")


def test_page_checksums_of_other_programs_are_checked(tmp_path):
    path = tmp_path / "t.parquet"
    texts = pa.table({"text": ["one text", "another text"]})
    pq.write_table(texts, path, compression="none", write_page_checksum=True)
    path.write_bytes(path.read_bytes().replace(b"another text", b"a mother text"[:12], 1))
    with refused("input", "t.parquet"):
        load_examples(path)


def test_damaged_predictions_are_refused_as_examples_too(saved, tmp_path):
    path = tmp_path / "p.parquet"
    path.write_bytes(flipped(saved, 8 * (len(saved) // 2)))
    with refused("damaged", "p.parquet"):
        load_examples(path)
