"""Installed packages of a few lines: files and a dist-info directory, as installers leave them."""

import tomllib
from pathlib import Path

from bayeslora.posteriors.registry import CATALOGUE

GROUP = CATALOGUE.group
GUIDE = Path(__file__).parents[2] / "docs" / "acme-methods"


def guide_files():
    """Return the files of the guide's example by path."""
    paths = [GUIDE / "pyproject.toml", *GUIDE.glob("*/*.py")]
    return {path.relative_to(GUIDE).as_posix(): path.read_text("utf-8") for path in paths}


def install(site, package, version, entries, files=()):
    """Install a package into the directory `site`.

    Args:
        site: The directory; created if it does not exist.
        package: Its name.
        version: Its version.
        entries: Object paths of its posteriors by name, or its entry points by group.
        files: Content by path.
    """
    info = site / f"{package.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    groups = entries if GROUP in entries else {GROUP: entries}
    lines = []
    for group, items in groups.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in items.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    for path, content in dict(files).items():
        place = site / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content, encoding="utf-8")


def install_guide(site):
    """Install the guide's example, tests included; return the path of the tests."""
    files = guide_files()
    project = tomllib.loads(files["pyproject.toml"])["project"]
    install(site, project["name"], project["version"], project["entry-points"], files)
    return site / "tests"
