"""The context of an adapter: read, run once through the network, remembered on disk.

CorDA starts from it, and S²FT may choose its columns by it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bayeslora import options
from bayeslora.adapters.base import Adapter
from bayeslora.adapters.config_columns import S2FT
from bayeslora.adapters.config_starts import CorDA
from bayeslora.adapters.low_rank import LowRank
from bayeslora.adapters.start import from_context
from bayeslora.adapters.stats import SecondMoment, load_moments, save_moments, second_moments
from bayeslora.backbones.encoder import Batch, FeatureExtractor, PreparedTexts
from bayeslora.disk_cache import SECOND_MOMENTS, kept_file, make_room, mark_used, may_keep
from bayeslora.errors import InputError
from bayeslora.tasks.columns import DataColumns
from bayeslora.tasks.examples import Examples
from bayeslora.training.data import read_rows
from bayeslora.training.network import Network
from bayeslora.training.progress import progress_bar

logger = logging.getLogger(__name__)

_BATCH = 32
# The official advice is to have several tokens for each input.
_TOKENS_PER_INPUT = 4


def read_context(
    adapter: Adapter, columns: DataColumns, held_out: Examples | None = None
) -> Adapter:
    """Return the adapter with the texts of its context in the place of the file's name.

    Args:
        adapter: Any adapter; others than CorDA come back as they are.
        columns: Of the training data; the context's texts have the same column.
        held_out: Rows that choose or judge the model.

    Raises:
        InputError: The file cannot be read, or the context holds texts of `held_out`.
    """
    if not isinstance(adapter, CorDA) or adapter.context is None:
        return adapter
    texts: Sequence[str] = adapter.context
    if isinstance(adapter.context, str):
        texts = read_rows(adapter.context, DataColumns(columns.text, columns.label, None)).texts
    shared = set(texts) & set(held_out.texts if held_out is not None else ())
    if shared:
        raise InputError(
            f"the context holds {len(shared)} of the validation texts, such as "
            f"{min(shared)[:40]!r}: rows that judge a model may not shape it; take other texts"
        )
    return dataclasses.replace(adapter, context=tuple(texts))


def recorded(adapter: Adapter) -> dict[str, Any]:
    """Return the options of an adapter for a record: of a context's texts their number and hash."""
    mapping = options.as_mapping(adapter)
    if isinstance(mapping.get("context"), list):
        texts = mapping["context"]
        digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]
        mapping["context"] = f"{len(texts)} texts, sha256 {digest}"
    return mapping


def begin_from_context(
    network: Network, adapter: CorDA, train: PreparedTexts, *, shown: bool = False
) -> None:
    """Let the sites of a fresh network start from the adapter's context.

    The context runs through the network itself, which computes what its backbone does until then:
    layers below the first adapted one are not run again where their states are known.

    Args:
        network: With blank sites.
        adapter: Its options; a context in a file is read.
        train: The training texts, the context where there is no other.
        shown: Whether to show a bar on stderr.

    Raises:
        InputError: As `read_context` and `second_moments`.
    """
    context = read_context(adapter, DataColumns())
    if isinstance(context, CorDA) and context.context is not None:
        texts = [context.context[row] for row in spread(len(context.context), adapter)]
        with progress_bar("frozen layers", len(texts), shown=shown, unit="text") as advance:
            prepared = network.encoder.prepare(texts, advance=advance)
    else:
        prepared = train
    moments = moments_on(network, prepared, adapter, shown=shown)
    _say_few(moments)
    for site in network.sites:
        if not isinstance(site, LowRank):
            continue
        try:
            site.begin(from_context(site.weight, adapter, moments[site.name]))
        except InputError as error:
            raise InputError(f"{site.name}: {error}") from None


def spread(count: int, adapter: CorDA | S2FT) -> list[int]:
    """Return up to `context_rows` of `count` row numbers, evenly spread."""
    kept = min(count, adapter.context_rows)
    places: list[int] = np.linspace(0, count - 1, kept).round().astype(int).tolist()
    return places


def moments_on(
    network: Network, texts: PreparedTexts, adapter: CorDA | S2FT, *, shown: bool = False
) -> dict[str, SecondMoment]:
    """Return the second moments of the sites' inputs on some texts, from disk where they are.

    Args:
        network: Its sites change nothing yet.
        texts: Of these up to `context_rows` are run.
        adapter: Its options.
        shown: Whether to show a bar on stderr.

    Raises:
        InputError: As `second_moments`.
    """
    rows = spread(len(texts), adapter)
    path = kept_file(SECOND_MOMENTS, _key(network, texts, rows))
    if path.is_file():
        try:
            moments = load_moments(path)
        except InputError as error:
            logger.warning("%s; the context is run again", error)
        else:
            mark_used(path)
            return moments
    network.eval()
    with progress_bar("context", len(rows), shown=shown, unit="text") as advance:
        moments = second_moments(
            network.encoder,
            {site.name: site for site in network.sites},
            _batches(network.encoder, texts, rows),
            advance,
        )
    if not may_keep(sum(moment.matrix.nbytes for moment in moments.values())):
        return moments
    try:
        make_room(path)
        save_moments(path, moments)
        mark_used(path)
    except (OSError, InputError) as error:
        logger.warning("second moments cannot be kept in %s: %s", path.parent, error)
    return moments


def _batches(encoder: FeatureExtractor, texts: PreparedTexts, rows: list[int]) -> Iterator[Batch]:
    for places in encoder.batches(texts.tokens.lengths[rows], _BATCH):
        yield texts.collate([rows[place] for place in places])


def _key(network: Network, texts: PreparedTexts, rows: list[int]) -> str:
    """Return a hash of everything that decides the second moments."""
    backbone = network.encoder.backbone
    names = [site.name for site in network.sites]
    weights = [backbone.fingerprint, backbone.dtype, str(network.sites[0].weight.dtype)]
    identity = [*weights, backbone.settings, names]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for column in (texts.tokens.ids, texts.tokens.types or ()):
        for item in (column[row] for row in rows if column):
            digest.update(len(item).to_bytes(8, "little") + item.tobytes())
    return digest.hexdigest()[:32]


def _say_few(moments: dict[str, SecondMoment]) -> None:
    name, moment = max(moments.items(), key=lambda item: len(item[1].matrix) / item[1].count)
    width = len(moment.matrix)
    if moment.count < _TOKENS_PER_INPUT * width:
        logger.warning(
            "the context has %d tokens for the %d inputs of %s; with fewer than %d the start "
            "follows their accidents: give a longer context",
            moment.count,
            width,
            name,
            _TOKENS_PER_INPUT * width,
        )
