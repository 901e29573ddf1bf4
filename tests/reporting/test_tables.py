"""The table model and its two text forms."""

from bayeslora.plain_text import display_columns
from bayeslora.reporting.tables import (
    Cell,
    Column,
    Row,
    Table,
    escape_markdown,
    to_markdown,
    to_text,
)


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
        "Method           NLL ↓      AUROC ↑",
        "                               near",
        "──────  ───────────────  ───────────",
        "vbll             0.250*       0.900",
        "        [0.200, 0.300]   [0.8, 1.0]",
        "猫               0.500",
        "        [0.400, 0.600]",
    ]


def test_sparse_text_has_one_line_for_titles_and_one_for_each_row():
    assert to_text(example(), sparse=True).splitlines() == [
        "Method                  NLL ↓      AUROC ↑ near",
        "vbll    0.250* [0.200, 0.300]  0.900 [0.8, 1.0]",
        "猫       0.500 [0.400, 0.600]",
    ]


def test_columns_of_text_start_at_the_same_place_whatever_the_script():
    lines = to_text(example("שלום", "日本語の名前")).splitlines()
    starts = {
        display_columns(line[: line.index("[")]) for line in lines if line.strip().startswith("[")
    }
    assert len(starts) == 1


def test_markdown_markup_in_names_is_shown_as_it_is():
    hostile = "a|b *c* _d_ `e` [f](g) <script> & ~h~ #i $j$ \\k"
    assert escape_markdown(hostile) == (
        r"a\|b \*c\* \_d\_ \`e\` \[f\](g) &lt;script&gt; &amp; \~h\~ \#i \$j\$ \\k"
    )
    line = to_markdown(example(first="a|b")).splitlines()[2]
    assert line.replace("\\|", "").count("|") == 4


def test_spans_join_rows_of_the_same_first_heading():
    rows = tuple(Row((name, "x"), ()) for name in ("a", "a", "b", "c", "c", "c"))
    assert Table("", ("Method", "Score"), (), rows).spans == [2, 0, 1, 3, 0, 0]
    single = tuple(Row((name,), ()) for name in ("a", "a"))
    assert Table("", ("Method",), (), single).spans == [1, 1]
    assert Table("", ("Method",), (), ()).spans == []


def test_some_columns_can_be_picked():
    picked = example().with_columns([1])
    assert [column.title for column in picked.columns] == ["AUROC"]
    assert [row.cells[0].value for row in picked.rows] == ["0.900", ""]


def test_a_transposed_table_has_a_row_for_each_score():
    table = example(first="a|b").transposed("Score")
    assert not table.sortable
    assert to_markdown(table).splitlines() == [
        "| Score | a\\|b | 猫 |",
        "| --- | ---: | ---: |",
        "| NLL ↓ | **0.250** [0.200, 0.300] | 0.500 [0.400, 0.600] |",
        "| AUROC ↑ near | 0.900 [0.8, 1.0] |  |",
    ]
    assert to_text(table).splitlines() == [
        "Score                    a|b               猫",
        "────────────  ───────────────  ───────────────",
        "NLL ↓                  0.250*           0.500",
        "              [0.200, 0.300]   [0.400, 0.600]",
        "AUROC ↑ near           0.900",
        "                  [0.8, 1.0]",
    ]
