"""`bayeslora tasks`: list the data sets known by name."""

from __future__ import annotations

import argparse
import dataclasses

from bayeslora.cli.arguments import add_json
from bayeslora.cli.messages import show
from bayeslora.cli.outputs import print_columns, print_json

SUMMARY = "list the known tasks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Print one line per task: name, splits and description."""
    from bayeslora.tasks.known import DATA_VARIABLE, KNOWN_TASKS

    if args.json:
        print_json([{"name": key, **dataclasses.asdict(task)} for key, task in KNOWN_TASKS.items()])
        return
    subjects = [name for name in KNOWN_TASKS if name.startswith("mmlu-")]
    rows = [
        (name, " ".join(task.splits), task.about)
        for name, task in KNOWN_TASKS.items()
        if name not in subjects
    ]
    print_columns([("task", "splits", "about"), *rows])
    show(
        "\nand mmlu-SUBJECT, exam questions without training rows, split test, in "
        + ", ".join(name.removeprefix("mmlu-") for name in subjects)
    )
    show(
        "\nnewsgroups is installed by `make setup`; the other tasks are read from --data-dir or "
        f"{DATA_VARIABLE},\nelse from the Hugging Face hub, if the package datasets is "
        "installed.\nOut-of-distribution sets are splits too, such as ood:arc-easy of "
        "openbookqa.\nYour own files need no --task: columns of questions are detected."
    )
