"""The results of a campaign, as JSON and as Markdown."""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_NOTES = {
    "crash points": (
        "The process ends before one of a command's file operations, or is killed at a random time "
        "(`SIGKILL`). The target must be old, new, or for `fit` and `predict` begun; the same "
        "command must then finish with the same bytes as an undisturbed run, and leave nothing "
        "else behind."
    ),
    "malformed input": (
        "Refused with exit code 2, a sentence and nothing written, or read as an independent "
        "strict reader reads it; never a traceback, exit code 1, or more than 5 s of CPU time."
    ),
    "flipped bits": (
        "Single bits, holes and cuts. Refused, or without any effect; `unseen` are changed values "
        "in formats without a checksum and in files of other tools, read for the first time; "
        "`rounded` are changes below what the fingerprint of a backbone sees (its weights in "
        "bfloat16); no probability moved by more than 0.01."
    ),
    "hostile directories": (
        "Pickles, code to import, links, FIFOs, huge sizes; a payload that runs makes a file."
    ),
}


def fingerprint() -> str:
    """Return a hash of the package and the campaign: results of other code are discarded."""
    digest = hashlib.sha256()
    for folder in ("bayeslora", "tests/faults"):
        for path in sorted((_ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def summarise(results: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return counts by scenario and group, and every case with a broken promise."""
    scenarios: dict[str, dict[str, dict[str, Counter[str]]]] = {}
    broken = []
    seconds: Counter[str] = Counter()
    for result in results:
        scenario, group, name = result["case"].split("/", 2)
        row = scenarios.setdefault(scenario, {}).setdefault(
            group, {"outcomes": Counter(), "problems": Counter()}
        )
        row["outcomes"][result["outcome"]] += 1
        row["problems"].update({kind for kind, _ in result["problems"]})
        seconds[scenario] += result["seconds"]
        if result["problems"]:
            broken.append({"scenario": scenario, "group": group, "name": name, **result})
    names = ("bayeslora", "torch", "transformers", "pyarrow", "safetensors")
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in names},
        },
        "source": fingerprint(),
        "seconds": {name: round(value) for name, value in seconds.items()},
        "scenarios": scenarios,
        "broken": broken,
    }


def write(summary: dict[str, Any], folder: Path) -> None:
    """Write `results.json` and `summary.md`."""
    text = json.dumps(summary, indent=1, ensure_ascii=True)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    (folder / "summary.md").write_text("\n".join(_page(summary)) + "\n", encoding="utf-8")


def _page(summary: dict[str, Any]) -> Iterable[str]:
    yield "# Fault campaign"
    yield ""
    versions = ", ".join(f"{name} {number}" for name, number in summary["versions"].items())
    yield f"Written by `make faults`. {versions}."
    for scenario, groups in summary["scenarios"].items():
        outcomes = sorted({name for row in groups.values() for name in row["outcomes"]})
        yield from ("", f"## {scenario.capitalize()}", "", _NOTES[scenario], "")
        yield f"| | cases | {' | '.join(outcomes)} | broken |"
        yield f"|---|{'--:|' * (len(outcomes) + 2)}"
        total: Counter[str] = Counter()
        for group, row in groups.items():
            total.update(row["outcomes"])
            total.update({"broken": sum(row["problems"].values())})
            yield _line(group, row["outcomes"], outcomes, row["problems"])
        yield _line("all", total, outcomes, {"": total["broken"]})
    yield from ("", "## Broken promises", "")
    for case in summary["broken"]:
        for kind, detail in case["problems"]:
            line = " ".join(ascii(f"{case['case']}: {detail}")[1:-1].split())
            yield f"- **{kind}** {line[:400]}"
    if not summary["broken"]:
        yield "None."


def _line(group: str, counts: dict[str, int], outcomes: list[str], problems: dict[str, int]) -> str:
    numbers = [counts.get(name, 0) for name in outcomes]
    kinds = ", ".join(f"{number} {kind}".strip() for kind, number in problems.items()) or "0"
    cells = [group, str(sum(numbers)), *map(str, numbers), kinds]
    return f"| {' | '.join(cells)} |"
