"""`bayeslora methods`: adapters, posteriors and what follows them, with their options."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from bayeslora.cli.arguments import add_json
from bayeslora.cli.outputs import print_columns, print_json

SUMMARY = "list adapters, posteriors, recalibrators, conformal sets and scores"

# Passes of the adapted layers that a prediction takes, and numbers kept beside the mean weights.
_COSTS = ("passes", "parameters")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Print a line a method, or JSON with the defaults of every option."""
    found = _found()
    if args.json:
        print_json(found)
        return
    rows: list[tuple[str, ...]] = []
    for kind, entries in found.items():
        costs = [name for name in _COSTS if any(name in item for item in entries)]
        rows.append(
            (kind.replace("_", " "), "", *(name if name in costs else "" for name in _COSTS), "")
        )
        rows += [
            (
                f"  {item['name']}",
                item["summary"] + _origin(item),
                *(item.get(name, "") for name in _COSTS),
                item["source"],
            )
            for item in entries
        ]
    print_columns(rows)
    print("\n--json lists the options of each with their defaults.")


def _found() -> dict[str, list[dict[str, Any]]]:
    from bayeslora.adapters.config import ADAPTERS
    from bayeslora.adapters.config_lisa import LayerSampling
    from bayeslora.conformal.config import CONFORMAL
    from bayeslora.posteriors.config_scores import FEATURE_SCORES, LOGIT_SCORES
    from bayeslora.posteriors.registry import listed_posteriors
    from bayeslora.recalibration.config import RECALIBRATORS

    return {
        "adapters": [_described(config) for config in ADAPTERS.values()],
        "layer_sampling": [_described(LayerSampling)],
        "posteriors": [
            {**_described(item.config), "package": item.package} for item in listed_posteriors()
        ],
        "recalibrators": [_described(config) for config in RECALIBRATORS.values()],
        "conformal sets": [_described(config) for config in CONFORMAL.values()],
        "logit_scores": [_listed(info) for info in LOGIT_SCORES.values()],
        "feature_scores": [_listed(info) for info in FEATURE_SCORES.values()],
    }


def _listed(info: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(info), "options": {}}


def _origin(item: dict[str, Any]) -> str:
    package = item.get("package", "bayeslora")
    return "" if package.split()[0] == "bayeslora" else f" ({package})"


def _described(config: type[Any]) -> dict[str, Any]:
    from bayeslora import options

    defaults = options.as_mapping(config())
    return {
        "name": defaults.pop("name"),
        "summary": config.summary,
        **{name: getattr(config, name) for name in _COSTS if hasattr(config, name)},
        "source": config.source,
        "options": defaults,
    }
