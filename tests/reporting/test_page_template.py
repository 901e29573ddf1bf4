"""User templates: what they can change, what they cannot access, and their error messages."""

import hashlib

import pytest
from refusal import refused

from bayeslora.reporting import page as page_module
from bayeslora.reporting.page import load_template
from bayeslora.reporting.report import report

pytestmark = pytest.mark.usefixtures("blank_figures")

EXTENDS = '{% extends "bayeslora/report.html.j2" %}\n'


@pytest.fixture
def template(tmp_path):
    def write(text, name="mine.html.j2"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_file_changes_the_blocks_that_it_names(template, make, tmp_path):
    path = template(
        EXTENDS
        + '{% import "bayeslora/macros.html.j2" as bl %}'
        + "{% block header %}<h1>ACME: {{ page.title }}</h1>{% endblock %}"
        + "{% block style %}{{ super() }}h1 { color: red; }{% endblock %}"
        + "{% block reliability %}{% endblock %}"
        + "{% block more %}{{ bl.gallery([figures['confidence-1']]) }}"
        + "{{ bl.table(tables.every) }}{% endblock %}"
    )
    out = tmp_path / "report"
    page = report(make("m"), out=out, title="<i>", template=path, num_resamples=5)
    text = page.read_text(encoding="utf-8")
    assert "<h1>ACME: &lt;i&gt;</h1>" in text
    assert "h1 { color: red; }" in text
    assert ".gallery {" in text
    assert 'id="reliability"' not in text
    assert text.count('id="scores-caption"') == 1
    assert text.count('id="every-caption"') == 2
    assert text.count('<title id="confidence-1-title">') == 1
    assert hashlib.sha256(path.read_bytes()).hexdigest() in text


def test_a_block_can_add_to_what_ours_says(template, make, tmp_path):
    path = template(EXTENDS + "{% block scores %}{{ super() }}<p>more</p>{% endblock %}")
    page = report(make("m"), out=tmp_path / "out", template=path, num_resamples=5)
    section = page.read_text(encoding="utf-8").split('<section id="scores"')[1]
    assert "<p>more</p>" in section.split("<section")[0]


def test_a_directory_includes_its_own_files(template, tmp_path):
    template("logo {{ version }}", "look/parts.j2")
    entry = template(
        EXTENDS + '{% block body %}{% include "parts.j2" %}{% endblock %}', "look/report.html.j2"
    )
    loaded = load_template(entry.parent)
    values = {"page": {"title": "t"}, "policy": "p", "style": "", "script": "", "version": "9"}
    assert "logo 9" in loaded.render(values)
    assert len(loaded.sha256) == 64


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a\n{% if %}", ("line 2",)),
        ("a\nb\n{{ nothing.here }}", ("line 3", "'nothing'")),
        ("{{ 1 / 0 }}", ("line 1", "division by zero")),
        ("\n{% include 'x.j2' %}", ("line 2", "'x.j2'", "bayeslora/macros")),
        ("{% extends '../../secret' %}", ("line 1", "'../../secret'")),
        ("{{ version.__class__.__mro__ }}", ("line 1", "__class__")),
        ("{{ ''.__class__.__base__.__subclasses__() }}", ("line 1",)),
        ("{{ sizes.append(1) }}", ("line 1",)),
    ],
)
def test_errors_name_the_file_and_the_line(template, text, named):
    path = template(text)
    with refused("input", "mine.html.j2", *named):
        load_template(path).render({"version": "1", "sizes": [1]})


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 9 ** 999999999 }}",  # at compile time, where constants are folded
        "{{ 'x' * 9999999999 }}",
        "{{ '\\ud800' }}",
    ],
)
def test_a_template_cannot_go_on_for_ever(template, monkeypatch, text):
    monkeypatch.setattr(page_module, "SECONDS", 1)
    path = template(text)
    with refused("input", "mine.html.j2"):
        load_template(path).render({})


def test_a_machine_that_gives_it_one_percent_of_a_core_is_waited_for(template, monkeypatch):
    waits = []

    def run(*words, timeout, **options):
        waits.append(timeout)
        return run_before(*words, timeout=timeout, **options)

    run_before = page_module.subprocess.run
    monkeypatch.setattr(page_module.subprocess, "run", run)
    load_template(template(EXTENDS))
    assert min(waits) >= 100 * page_module.SECONDS


def test_a_huge_template_is_not_read(template, monkeypatch):
    monkeypatch.setattr(page_module, "MOST_TEMPLATE_BYTES", 10)
    with refused("input", "10"):
        load_template(template("x" * 11))


def test_syntax_is_checked_before_anything_is_read(template, tmp_path):
    path = template("{% block a %}")
    with refused("input", "line 1"):
        report(tmp_path / "missing.parquet", out=tmp_path / "out", template=path)


@pytest.mark.parametrize("name", ["missing.j2", "folder"])
def test_a_missing_template_is_named(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with refused("input", name):
        load_template(tmp_path / name)


def test_values_are_escaped_in_templates_too(template):
    loaded = load_template(template("<p>{{ page }}</p>"))
    assert loaded.render({"page": "<script>"}) == "<p>&lt;script&gt;</p>"


def test_a_template_that_is_not_text_is_named(tmp_path):
    path = tmp_path / "binary.j2"
    path.write_bytes(b"\xff\xfe\x00")
    with refused("input", "UTF-8"):
        load_template(path)
