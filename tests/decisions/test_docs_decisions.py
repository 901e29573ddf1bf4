"""The worked example of docs/decisions.md prints what the page says."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "decisions.md"


def test_the_example_prints_what_the_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text(encoding="utf-8")
    blocks = r"```python\n(.*?)```\n\nprints\n\n```\n(.*?)```"
    code, printed = re.search(blocks, page, re.DOTALL).groups()
    exec(compile(code, str(PAGE), "exec"), {})
    assert capsys.readouterr().out == printed
