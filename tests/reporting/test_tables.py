"""The table model and its two text forms."""

from bayeslora.reporting.blocks import Cell, Column, Row, Table
from bayeslora.reporting.console import to_text
from bayeslora.reporting.page import escape_markdown, to_markdown


def example(first="vbll", second="猫"):
    return Table(
        caption="Scores",
        headings=("Method",),
        columns=(Column("NLL", "↓"), Column("AUROC", "↑", "near")),
        rows=(
            Row((first,), (Cell("0.250", "[0.200, 0.300]", True), Cell("0.900", "[0.8, 1.0]"))),
            Row((second,), (Cell("0.500", "[0.400, 0.600]"), Cell())),
        ),
    )


def test_markdown_table():
    assert to_markdown(example()).splitlines() == [
        "| Method | NLL ↓ | AUROC ↑ near |",
        "| --- | ---: | ---: |",
        "| vbll | **0.250** [0.200, 0.300] | 0.900 [0.8, 1.0] |",
        "| 猫 | 0.500 [0.400, 0.600] |  |",
    ]


def test_text_table_is_aligned_and_starred():
    assert to_text(example()).splitlines() == [
        "Method           NLL ↓     AUROC ↑",
        "                              near",
        "──────  ──────────────  ──────────",
        "vbll            *0.250       0.900",
        "        [0.200, 0.300]  [0.8, 1.0]",
        "猫               0.500",
        "        [0.400, 0.600]",
    ]


def test_markdown_markup_in_names_is_shown_as_it_is():
    hostile = "a|b *c* _d_ `e` [f](g) <script> & ~h~ #i $j$ \\k"
    assert escape_markdown(hostile) == (
        r"a\|b \*c\* \_d\_ \`e\` \[f\](g) &lt;script&gt; &amp; \~h\~ \#i \$j\$ \\k"
    )
    line = to_markdown(example(first="a|b")).splitlines()[2]
    assert line.replace("\\|", "").count("|") == 4


def test_a_transposed_table_has_a_row_for_each_score():
    table = example(first="a|b").transposed("Score")
    assert not table.sortable
    assert to_markdown(table).splitlines() == [
        "| Score | a\\|b | 猫 |",
        "| --- | ---: | ---: |",
        "| NLL ↓ | **0.250** [0.200, 0.300] | 0.500 [0.400, 0.600] |",
        "| AUROC ↑ near | 0.900 [0.8, 1.0] |  |",
    ]
