"""Output directories appear whole or not at all, and replace only what is ours."""

import json
import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from crashes import survivors
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from refusal import refused

from bayeslora import durable
from bayeslora.errors import InputError
from bayeslora.io.directories import Layout, atomic_directory, refuse_foreign, refuse_target
from bayeslora.io.files import atomic_file

THING = Layout("a thing", "thing.json", 2, frozenset({"name"}), ("data-*.bin", "figures/*.svg"))
DRAFT = Layout("a draft", "draft.json", 1, files=("work/step-*/state",))
OURS = {"format_version": 2, "name": "x"}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def make(folder, files, marker=OURS):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old")
    if marker is not None:
        folder.mkdir(exist_ok=True)
        (folder / "thing.json").write_text(
            marker if isinstance(marker, str) else json.dumps(marker)
        )
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize(
    "files",
    [
        (),
        ("data-1.bin", "figures/a.svg"),
        # Leftovers of killed writers.
        (".data-1.bin.abcd_123.part", ".thing.json.lock", "figures/.a.svg.abcd_123.part"),
        ("listed.txt", "deep/listed.txt", "[x].txt"),
    ],
)
def test_what_is_ours_is_replaced(tmp_path, files):
    marker = {**OURS, "files": ["listed.txt", "deep/listed.txt", "[x].txt", 5]}
    folder = make(tmp_path / "out", files, marker)
    with atomic_directory(folder, THING, overwrite=True) as temporary:
        (temporary / "thing.json").write_text("new")
    assert names(folder) == ["thing.json"]
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("thesis.tex", "thesis.tex"),
        ("figures/thesis.tex", "figures/thesis.tex"),
        ("figures/deep/a.svg", "figures/deep/"),
        ("deep/data-1.bin", "deep/"),
        ("data-1.bin/thesis.tex", "data-1.bin/"),
        (".hidden", ".hidden"),
        (".thesis.tex.abcd_123.part", ".thesis.tex.abcd_123.part"),
        ("data-1.bin.part", "data-1.bin.part"),
        ("x.txt", "x.txt"),
    ],
)
def test_the_first_foreign_file_is_named_and_nothing_is_touched(tmp_path, foreign, shown):
    folder = make(tmp_path / "out", ["data-0.bin", foreign], {**OURS, "files": ["[x].txt"]})
    before = contents(tmp_path)
    with pytest.raises(InputError) as caught, atomic_directory(folder, THING, overwrite=True):
        pytest.fail("the block ran")
    assert repr(shown) in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "marker",
    [
        *(None, "", "{}", "[]", "null", '"thing"', "{", '{"format_version": 2}'),
        *({"name": "x"}, {**OURS, "format_version": 3}, {**OURS, "format_version": 0}),
        *({**OURS, "format_version": "2"}, {**OURS, "format_version": True}),
    ],
)
def test_a_marker_that_is_not_ours_protects_the_directory(tmp_path, marker):
    folder = make(tmp_path / "out", ["data-1.bin"], marker)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"thing\.json"):
        refuse_foreign(folder, THING, DRAFT)
    assert contents(tmp_path) == before


_NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1
).filter(lambda name: name not in {".", ".."})


@settings(max_examples=60, deadline=None)
@given(st.sets(_NAMES, min_size=1, max_size=4), _NAMES)
def test_a_listed_name_stands_for_itself_alone(listed, other):
    """This holds for all characters: `*` in a list is not a pattern."""
    with tempfile.TemporaryDirectory() as name:
        folder = make(Path(name) / "out", [], {**OURS, "files": sorted(listed)})
        try:
            for file in listed:
                (folder / file).touch()
            (folder / other).touch()
        except OSError:  # name too long
            assume(False)
        known = {*listed, "thing.json"}
        if other in known or re.fullmatch(r"data-.*\.bin", other, re.DOTALL):
            refuse_foreign(folder, THING)
        else:
            with pytest.raises(InputError):
                refuse_foreign(folder, THING)


def test_layouts_may_be_combined(tmp_path):
    folder = make(tmp_path / "out", ["data-1.bin", "work/step-1/state"])
    (folder / "draft.json").write_text('{"format_version": 1}')
    refuse_foreign(folder, THING, DRAFT)
    (folder / "thing.json").unlink()
    with refused("exists", "data-1.bin"):  # not in a draft
        refuse_foreign(folder, THING, DRAFT)
    (folder / "data-1.bin").unlink()
    refuse_foreign(folder, THING, DRAFT)
    (folder / "draft.json").write_text("{}")
    with refused("damaged", "draft.json"):
        refuse_foreign(folder, THING, DRAFT)


def test_a_writer_that_was_killed_before_its_marker_was_there(tmp_path):
    folder = make(tmp_path / "out", [])
    for name in (".draft.json.lock", ".draft.json.abcd_123.part"):
        (folder / name).touch()
    refuse_foreign(folder, THING, DRAFT)
    with atomic_directory(folder, THING, DRAFT, overwrite=True):
        pass
    assert names(tmp_path) == ["out"]


def test_links_are_not_followed(tmp_path):
    far = make(tmp_path / "far", ["thesis.tex"], None)
    folder = make(tmp_path / "out", [])
    (folder / "data-1.bin").symlink_to(far)
    with atomic_directory(folder, THING, overwrite=True):
        pass
    assert names(far) == ["thesis.tex"]
    make(folder, ["data-1.bin"])
    (folder / "figures").symlink_to(far)
    with refused("exists", "'figures'"):
        refuse_foreign(folder, THING)


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_empty_directory_is_filled(tmp_path, overwrite):
    with atomic_directory(tmp_path / "out", THING, overwrite=overwrite):
        pass
    with atomic_directory(tmp_path / "out", THING, overwrite=overwrite) as temporary:
        (temporary / "new").touch()
    assert names(tmp_path / "out") == ["new"]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    folder = make(tmp_path / "out", [])
    with refused("exists", "thesis.tex"):  # noqa: SIM117
        with atomic_directory(folder, THING, overwrite=True):
            (folder / "thesis.tex").write_text("years of work")
    assert names(folder) == ["thesis.tex", "thing.json"]
    assert names(tmp_path) == ["out"]


@pytest.fixture(params=[True, False], ids=["exchange", "two renames"])
def late(request, monkeypatch):
    """Return a list of functions to call between the last check and either kind of exchange."""
    exchange, calls = durable._exchange, []

    def exchanged(first, second):
        for call in calls:
            call()
        return request.param and exchange(first, second)

    monkeypatch.setattr(durable, "_exchange", exchanged)
    return calls


def old_directory(folder):
    [path] = folder.parent.glob(f"{folder.name}.old-*")
    return path


def test_a_file_that_appears_at_the_last_moment_is_kept(tmp_path, late, caplog):
    folder = make(tmp_path / "out", ["data-1.bin"])
    late.append(lambda: (folder / "thesis.tex").write_text("years of work"))
    with atomic_directory(folder, THING, overwrite=True) as temporary:
        make(temporary, ["data-2.bin"])
    old = old_directory(folder)
    assert names(folder) == ["data-2.bin", "thing.json"]
    assert names(old) == ["data-1.bin", "thesis.tex", "thing.json"]
    assert names(tmp_path) == ["out", old.name]
    assert old.name in caplog.text
    assert "thesis.tex" in caplog.text


def test_a_file_that_appears_while_the_old_directory_is_deleted_is_kept(tmp_path, monkeypatch):
    """For example, a file of a program that uses it as its working directory."""
    folder = make(tmp_path / "out", ["data-1.bin"])
    unlink = Path.unlink

    def interfere(path, missing_ok=False):
        if path.name == "data-1.bin":
            (path.parent / "thesis.tex").write_text("years of work")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", interfere)
    with atomic_directory(folder, THING, overwrite=True):
        pass
    assert names(old_directory(folder)) == ["thesis.tex"]


def test_a_kill_after_the_exchange_loses_no_file_that_appeared_before(tmp_path, late):
    folder = make(tmp_path / "out", ["data-1.bin"])

    def write(interfere):
        late[:] = [interfere]
        with atomic_directory(folder, THING, overwrite=True) as temporary:
            make(temporary, ["data-2.bin"])

    seen = set()
    for _ in survivors(lambda: write(lambda: (folder / "thesis.tex").write_text("my work"))):
        before = [path.read_text() for path in tmp_path.rglob("thesis.tex")]
        with suppress(InputError):  # the old directory was restored with the file in it
            write(lambda: None)
        after = [path.read_text() for path in tmp_path.rglob("thesis.tex")]
        assert after == before
        assert not list(tmp_path.glob(".*"))
        seen.add(len(after))
        for path in tmp_path.iterdir():
            durable.remove(path)
        make(folder, ["data-1.bin"])
    assert seen == {0, 1}


def test_a_refused_writer_cleans_up_after_a_killed_one(tmp_path):
    folder = make(tmp_path / "out", [])
    make(tmp_path / ".out.abcd_123.gone", ["data-1.bin"])
    make(tmp_path / ".out.efgh_456.gone", ["thesis.tex"])
    (tmp_path / ".out.lock").touch()
    with refused("exists"):
        refuse_target(folder, THING, overwrite=False)
    assert names(tmp_path) == ["out", "out.old-efgh_456"]


def test_a_mount_point_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="mount point"), atomic_directory(tmp_path / "out"):
        pytest.fail("the block ran")


def test_replaced_directories_and_files_keep_their_modes(tmp_path):
    folder = make(tmp_path / "out", ["data-1.bin", "data-2.bin"])
    folder.chmod(0o700)
    (folder / "data-1.bin").chmod(0o600)
    before = os.umask(0o022)
    try:
        with atomic_directory(folder, THING, overwrite=True) as temporary:
            make(temporary, ["data-1.bin", "data-3.bin"])
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, *sorted(folder.iterdir()))]
    assert modes == [0o700, 0o600, 0o644, 0o644]


def test_modes_follow_the_umask_not_the_temporary_file(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "file") as temporary:
            temporary.write_text("")
        with atomic_directory(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_modes_inside_a_directory_follow_the_umask_whoever_wrote_the_files(tmp_path, mask, mode):
    """For example, safetensors moves a private temporary file into place."""
    before = os.umask(mask)
    try:
        with atomic_directory(tmp_path / "folder") as temporary:
            (temporary / "sub").mkdir()
            for path in (temporary / "a", temporary / "sub" / "b"):
                path.write_text("")
                path.chmod(0o600)
            (temporary / "link").symlink_to("a")
    finally:
        os.umask(before)
    for name in ("a", "sub/b"):
        assert stat.S_IMODE((tmp_path / "folder" / name).stat().st_mode) == mode
    assert (tmp_path / "folder" / "link").is_symlink()


def test_a_directory_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "folder"
    with atomic_directory(target) as temporary:
        (temporary / "inside").write_text("whole")
        assert not target.exists()
    assert names(target) == ["inside"]
    assert names(target.parent) == ["folder"]


def test_a_failed_writer_leaves_the_old_directory(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").write_text("old")

    def write():
        with atomic_directory(target, overwrite=True) as temporary:
            (temporary / "half").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert names(target) == ["old"]
    assert names(tmp_path) == ["folder"]


def test_an_existing_directory_is_refused_before_anything_is_done(tmp_path):
    (tmp_path / "old").touch()
    with refused("exists"), atomic_directory(tmp_path):
        pytest.fail("the block ran")


@pytest.mark.parametrize("old", ["directory", "file", "link"])
def test_overwriting_replaces_whatever_is_there(tmp_path, old):
    target = tmp_path / "folder"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("")
    if old == "directory":
        target.mkdir()
        (target / "old").write_text("")
    elif old == "file":
        target.write_text("")
    else:
        target.symlink_to(elsewhere)
    with atomic_directory(target, overwrite=True) as temporary:
        (temporary / "new").write_text("")
    assert names(target) == ["new"]
    assert names(elsewhere) == (["new"] if old == "link" else ["kept"])
    assert names(tmp_path) == ["elsewhere", "folder"]


def test_the_old_directory_survives_a_rename_that_fails(tmp_path, monkeypatch):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").write_text("")
    rename = Path.rename

    def fail(path, to):
        if (path / "new").exists():
            raise OSError("disk is full")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", fail)
    monkeypatch.setattr(durable, "_exchange", lambda first, second: False)

    def write():
        with atomic_directory(target, overwrite=True) as temporary:
            (temporary / "new").write_text("")

    with pytest.raises(OSError, match="disk is full"):
        write()
    assert names(target) == ["old"]
    assert names(tmp_path) == ["folder"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    for name in ("file", "missing"):
        (tmp_path / name).symlink_to(tmp_path / "far" / name)
    (tmp_path / "far" / "file").write_text("old")
    for name in ("file", "missing"):
        with atomic_file(tmp_path / name) as temporary:
            temporary.write_text("new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "far" / name).read_text() == "new"
    (tmp_path / "far" / "folder").mkdir()
    (tmp_path / "folder").symlink_to(tmp_path / "far" / "folder")
    with atomic_directory(tmp_path / "folder", overwrite=True) as temporary:
        (temporary / "new").touch()
    assert (tmp_path / "folder").is_symlink()
    assert names(tmp_path / "far" / "folder") == ["new"]
    assert names(tmp_path / "far") == ["file", "folder", "missing"]


@pytest.mark.parametrize("path", [".", "..", "inside/.."])
def test_the_working_directory_is_not_replaced(tmp_path, monkeypatch, path):
    """The process, and the shell that started it, would be in a deleted directory."""
    (tmp_path / "here" / "inside").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")

    def write():
        with atomic_directory(path, overwrite=True):
            pass

    with pytest.raises(InputError, match="working directory"):
        write()
    assert names(tmp_path) == ["here"]
