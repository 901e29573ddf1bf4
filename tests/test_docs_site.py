"""The extensions of Sphinx in the configuration of the documentation site."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def conf(monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.setattr(sys, "path", [str(DOCS), *sys.path])
    import conf

    yield conf
    del sys.modules["conf"]


def test_links_to_html_files_open_them_and_links_to_others_stay_downloads(conf, tmp_path):
    from docutils import nodes
    from sphinx import addnodes

    source = tmp_path / "source" / "gallery"
    source.mkdir(parents=True)
    (source / "report.html").write_text("<p>report</p>")
    page, script = (
        addnodes.download_reference("", "", nodes.inline(text=name), reftarget=name)
        for name in ("report.html", "script.py")
    )
    doctree = nodes.container("", nodes.paragraph("", "", page, script))
    app = SimpleNamespace(
        builder=SimpleNamespace(name="html"),
        outdir=tmp_path / "site",
        env=SimpleNamespace(relfn2path=lambda name, _: (f"gallery/{name}", str(source / name))),
    )
    conf._open_pages(app, doctree, "gallery/README")
    link, download = doctree[0].children
    assert (link["refuri"], link.astext()) == ("report.html", "report.html")
    assert isinstance(download, addnodes.download_reference)
    assert (tmp_path / "site" / "gallery" / "report.html").read_text() == "<p>report</p>"
