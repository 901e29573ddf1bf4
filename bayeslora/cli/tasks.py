"""`bayeslora tasks`: list the data sets known by name."""

from __future__ import annotations

import dataclasses

from bayeslora.cli.arguments import Everywhere as Options
from bayeslora.cli.output import print_json, show_wrapped


def run(args: Options) -> None:
    """Print one entry per task: name, description and splits; MMLU is one entry."""
    from bayeslora.data.known import KNOWN_TASKS

    if args.json:
        print_json([{"name": key, **dataclasses.asdict(task)} for key, task in KNOWN_TASKS.items()])
        return
    subjects = [name for name in KNOWN_TASKS if name.startswith("mmlu-")]
    tasks = {
        name: f"{task.about} ({', '.join(task.splits)})"
        for name, task in KNOWN_TASKS.items()
        if name not in subjects
    }
    tasks["mmlu-SUBJECT"] = (
        f"exam questions in {len(subjects)} subjects (test), such as {subjects[0]}; --json lists "
        "all"
    )
    width = 2 + max(map(len, tasks))
    for name, about in tasks.items():
        show_wrapped(name.ljust(width) + about, " " * width)
