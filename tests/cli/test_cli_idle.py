"""Options without effect are refused, or noted if they only do less than it seems."""

import pytest
from cli_files import fake


@pytest.fixture
def files(tmp_path):
    """Write predictions, others of the same rows, out-of-distribution rows, and separate rows."""
    return [fake(tmp_path / name) for name in ("p.csv", "q.csv")]


@pytest.mark.parametrize(("words", "named"), [("report P --out R --set device=cpu", "device")])
def test_an_option_without_what_it_is_about_is_refused(refused, files, tmp_path, words, named):
    places = {"P": files[0], "Q": files[1], "R": tmp_path / "r"}
    assert named in refused(*(places.get(word, word) for word in words.split()))


def test_draws_of_what_draws_nothing_are_refused(refused, run, world, tmp_path):
    fit = ["fit", world.train, "--backbone", world.llama, "--epochs", 1, "--posterior", "mle"]
    assert run(*fit, "--adapter", "lora:r=2", "--out", tmp_path / "m").code == 0
    predict = ["predict", tmp_path / "m", world.test, "--out", tmp_path / "p.csv"]
    assert "--num-samples" in refused(*predict, "--num-samples", 5)
    assert run(*predict, "--num-samples", 0).code == 0
