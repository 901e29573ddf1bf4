"""What predictions note of the method that made them, in words that a report shows."""

from __future__ import annotations

import hashlib
import json

from bayeslora.adapters.registry import CATALOGUE, table_name
from bayeslora.checkpoint import ModelRecord
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.registry import stored_posterior


def method_name(record: ModelRecord) -> str:
    """Return what tables call a classifier, such as `polar-vbll`."""
    adapter = f"{table_name(record.adapter)}-" if record.adapter else ""
    return f"{adapter}{stored_posterior(record.posterior).name}"


def method_notes(adapter: str | None, posterior: Posterior, passes: int) -> dict[str, str]:
    """Return metadata that name a method and say what it is, so that no reader has to know it.

    Args:
        adapter: Name of the adapter; None where the network was not adapted here.
        posterior: Options of the posterior, maybe of another package.
        passes: Passes of the adapted layers that the prediction took.
    """
    known = None if adapter is None else CATALOGUE.get(adapter)
    notes = {} if adapter is None else {"adapter": adapter}
    if known is not None:
        notes["adapter_summary"] = known.summary
    sources = (getattr(known, "source", ""), posterior.source)
    return {
        **notes,
        "posterior": posterior.name,
        "posterior_summary": posterior.summary,
        "passes": str(passes),
        "sources": "; ".join(filter(None, sources)),
    }


def fit_options(record: ModelRecord) -> str:
    """Return a hash of everything that decides a fit but its seed: 16 hexadecimal digits.

    Fits with the same one differ in their random numbers, and maybe in which rows were drawn: a
    seed often draws the training rows too, so their number counts and not their content, and
    whether there were validation rows. Versions of libraries do not count, and neither do scores
    that are fitted beside the posterior, nor where the backbone was found.

    Args:
        record: Of a model, as it was fitted or as it was read.
    """
    training = {name: value for name, value in record.training.items() if name != "seed"}
    backbone = {
        name: value for name, value in record.backbone.items() if name not in ("name", "settings")
    }
    rows = {
        name: value if name == "before" else value is not None
        for name, value in record.data.items()
    }
    parts = [
        backbone if "fingerprint" in backbone else record.backbone,
        record.adapter,
        record.posterior,
        record.max_length,
        record.classes,
        record.num_train,
        rows,
        training,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def learnt_from(config: Posterior | None, *, has_validation: bool) -> str:
    """Return the rows that a posterior's final fit sees: `train`, `validation` or `nothing`.

    Args:
        config: Its options, or None while the posterior is still to be chosen.
        has_validation: Whether there are validation rows, without which training rows stand in.
    """
    rows = "train" if config is None else config.learns_from
    return "train" if rows == "validation" and not has_validation else rows


def fit_words(record: ModelRecord) -> str:
    """Return what was fitted to how many rows, such as `fitted to 40 validation rows`."""
    calibration = record.results.get("calibration", {})
    rows = calibration.get("fitted_to", "train")
    if rows == "nothing":
        return "fitted to no rows"
    if rows == "validation":
        return f"fitted to {calibration['validation_rows']:,} validation rows"
    return f"fitted to {record.num_train:,} training rows"
