"""Tables for LaTeX: names are shown literally and never executed."""

import re
import shutil
import string
import subprocess

import pytest

from bayeslora.reporting.blocks import Cell, Column, Row, Table
from bayeslora.reporting.page import escape_latex, to_latex
from bayeslora.reporting.text import named

LATEX = shutil.which("pdflatex")
HOSTILE = [
    "\\input{/etc/passwd}",
    "50% & more_than^that~",
    "{unbalanced",
    "}close",
    "#1 $x$",
    "[2ex] bracket",
    "* star",
    "--- ,, '' `` ?` !` << >>",
    '|pipe| "quotes"',
    "naïve Größe",
    "$$\\end{tabular}\\\\",
    string.punctuation,
    "…·∞→−–↑↓\N{NO-BREAK SPACE}",
]
COMMANDS = {
    *("begin", "end", "caption", "label", "centering", "setlength", "tabcolsep", "footnotesize"),
    *("par", "medskip", "toprule", "midrule", "bottomrule", "addlinespace", "scriptsize"),
    *("textbf", "textbackslash", "textasciicircum", "textasciitilde", "textless", "textgreater"),
    *("textbar", "textendash", "char", "ldots", "cdot", "infty", "to", "uparrow", "downarrow"),
}


def table(names, columns=3):
    cells = tuple(Cell("−0.1", "[−0.2, +0.3]", place == 1) for place in range(columns))
    return Table(
        f"Caption of {named(names[0])}",
        ("Method",),
        tuple(Column(f"Score {place}", "↑", names[-1]) for place in range(columns)),
        tuple(Row((name,), cells) for name in names),
    )


def lines_of_cells(text):
    return [line for line in text.splitlines() if line.endswith(r" \\")]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_adds_no_command_and_no_cell(name):
    text = to_latex(table([name]))
    assert set(re.findall(r"\\([A-Za-z]+)", text.replace(r"\\", ""))) <= COMMANDS
    bare = re.sub(r"\\[{}#$%&_]", "", text)
    assert bare.count("{") == bare.count("}")
    depth = 0
    for char in bare:
        depth += (char == "{") - (char == "}")
        assert depth >= 0
    assert bare.count("$") % 2 == 0
    assert all(line.count(" & ") == 3 for line in lines_of_cells(bare))
    assert "%" not in bare
    assert "#" not in bare


def test_bold_marks_the_best_and_intervals_stand_below():
    body = lines_of_cells(to_latex(table(["mle"])))
    assert body[2] == r"{mle} & $-$0.1 & \textbf{$-$0.1} & $-$0.1 \\"
    assert body[3].count(r"{\scriptsize [$-$0.2, +0.3]}") == 3


def test_a_report_has_all_tables(made):
    text = (made / "tables.tex").read_text(encoding="utf-8")
    assert re.findall(r"\\label\{tab:bayeslora-([^}]+)\}", text) == [
        "overview",
        "scores",
        "every",
        "differences",
        "detection",
        "ood-1",
        "ood-2",
        "automation-1",
        *(f"confused-{place}" for place in (1, 2, 3)),
    ]
    assert r"\usepackage{booktabs}" in text
    markdown = (made / "report.md").read_text(encoding="utf-8")
    bold = {part.replace("−", "$-$") for part in re.findall(r"\*\*([+−]?\d\.\d{3,})\*\*", markdown)}
    assert bold
    assert set(re.findall(r"\\textbf\{([^}]+)\}", text)) == bold


@pytest.mark.skipif(LATEX is None, reason="no pdflatex on this machine")
def test_latex_takes_the_tables(made, tmp_path):
    document = (
        r"\documentclass{article}\usepackage{booktabs}\begin{document}"
        + (made / "tables.tex").read_text(encoding="utf-8")
        + to_latex(table(HOSTILE))
        + r"\end{document}"
    )
    (tmp_path / "paper.tex").write_text(document, encoding="utf-8")
    command = [LATEX, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert b"Missing character" not in (tmp_path / "paper.log").read_bytes()


def test_escaping_keeps_plain_text():
    assert escape_latex("PoLAR-VBLL 2 (seed 1)") == "PoLAR-VBLL 2 (seed 1)"
    assert escape_latex("a--b") == "a-{}-b"
