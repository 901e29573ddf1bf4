"""How much of a weight's 4-bit quantisation error do principal adapters take away?

    1 − ‖W − (Q(W_f) + s·BA)‖_* / ‖W − Q(W)‖_*          for every linear layer

‖·‖_* is the sum of singular values. PiSSA moves the principal part of W into the adapter before the
rest is quantised (QPiSSA), once or in alternating steps (Meng, Wang & Zhang 2024,
arXiv:2404.02948). LoftQ begins with Q(W) and lets the adapter follow the error (Li et al. 2023,
arXiv:2310.08659). Nothing is trained and nothing is random.

NF4 has 16 levels at quantiles of a normal distribution, relative to the largest entry of each group
(Dettmers et al. 2023, arXiv:2305.14314); `symmetric` has the 15 whole numbers from −7 to 7 times a
step. Scales are not quantised.

    python benchmarks/quantisation_error.py
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from verdicts import Claim, shown, table

from bayeslora.backbones.load import load_backbone
from bayeslora.errors import InputError
from bayeslora.files import atomic_file, read_json, write_json

BACKBONES = ("smollm2-135m", "minilm")
RANKS = (16,)
GROUP = 64
STEPS = 5
# What the paper says, the method that should take more, and the one that should take less.
COMPARISONS = (
    ("smaller quantisation error than without an adapter", "pissa-1", "none"),
    ("smaller than LoftQ's, both with one step", "pissa-1", "loftq-1"),
    (f"smaller with {STEPS} alternating steps than with one", f"pissa-{STEPS}", "pissa-1"),
    (f"smaller than LoftQ's, both with {STEPS} steps", f"pissa-{STEPS}", f"loftq-{STEPS}"),
)
METHODS = ("pissa-1", f"pissa-{STEPS}", "loftq-1", f"loftq-{STEPS}")

Quantiser = Callable[[Tensor], Tensor]
Scores = dict[str, dict[str, float]]


def main() -> None:
    """Measure every layer that is not there yet, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("reports/quantisation-error"))
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES))
    parser.add_argument("--ranks", nargs="+", type=int, default=list(RANKS))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.backbones:
        run(name, args.ranks, args.out)
        write_summary(args.out)
    print((args.out / "summary.md").read_text(encoding="utf-8"))


def run(backbone: str, ranks: Sequence[int], out: Path) -> None:
    """Measure the layers of one backbone, keeping each as it comes."""
    file = out / "scores" / f"{Path(backbone).name}.json"
    found: dict[str, Scores] = read_json(file) if file.is_file() else {}
    for name, weight in linear_weights(load_backbone(backbone, dtype="float32").model):
        layer = found.setdefault(name, {})
        for quantiser in QUANTISERS:
            missing = [r for r in ranks if f"{quantiser} r={r}" not in layer]
            layer |= errors(weight, quantiser, missing)
            if missing:
                write_json(file, found)


def linear_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the weight [out, in] of every linear layer in float64; a pooler is no part of it."""
    for name, module in model.named_modules():
        if type(module) is nn.Linear and "pooler" not in name:
            yield name, module.weight.detach().double()


def errors(weight: Tensor, quantiser: str, ranks: Sequence[int]) -> Scores:
    """Return, by quantiser and rank, the norm without an adapter and the share each method takes.

    Args:
        weight: [out, in] float64.
        quantiser: A member of `QUANTISERS`.
        ranks: Of the adapters.
    """
    if not ranks:
        return {}
    Q = QUANTISERS[quantiser]
    plain = nuclear_norm(weight - Q(weight))
    found: Scores = {}
    for r in ranks:
        scores = {"norm": plain}
        for kind, method in (("pissa", qpissa), ("loftq", loftq)):
            for steps in (1, STEPS):
                error = nuclear_norm(weight - method(weight, Q, r, steps))
                scores[f"{kind}-{steps}"] = 1 - error / plain
        found[f"{quantiser} r={r}"] = scores
    return found


def qpissa(weight: Tensor, Q: Quantiser, r: int, steps: int) -> Tensor:
    """Return Q(W − BA) + BA, where BA is the principal part of what the last Q left out.

    Before the first step Q has left out everything.
    """
    residual = weight
    for _ in range(steps):
        principal = best_of_rank(residual, r)
        quantised = Q(weight - principal)
        residual = weight - quantised
    return quantised + principal


def loftq(weight: Tensor, Q: Quantiser, r: int, steps: int) -> Tensor:
    """Return Q(W − BA) + B'A', where B'A' is the principal part of what this Q left out."""
    principal = torch.zeros_like(weight)
    for _ in range(steps):
        quantised = Q(weight - principal)
        principal = best_of_rank(weight - quantised, r)
    return quantised + principal


def nf4(weight: Tensor) -> Tensor:
    """Return each entry as the nearest of the 16 levels of NF4, in groups of `GROUP` entries."""
    groups, largest = _groups(weight)
    levels = nf4_levels()
    middles = (levels[1:] + levels[:-1]) / 2
    return (levels[torch.bucketize(groups / largest, middles)] * largest).reshape(weight.shape)


def symmetric(weight: Tensor) -> Tensor:
    """Return each entry as the nearest of 15 evenly spaced levels around 0, in groups."""
    groups, largest = _groups(weight)
    step = largest / 7
    return ((groups / step).round() * step).reshape(weight.shape)


QUANTISERS: dict[str, Quantiser] = {"nf4": nf4, "symmetric": symmetric}


def nf4_levels() -> Tensor:
    """Return the levels of NF4, from −1 to 1, 0 among them.

    Eight positive and seven negative ones are evenly spaced quantiles of a normal distribution, cut
    where the public code cuts it so that the largest levels are 1 and −1.
    """
    end = 0.9677083
    above = torch.linspace(end, 0.5, 9, dtype=torch.float64)[:-1]
    below = torch.linspace(end, 0.5, 8, dtype=torch.float64)[:-1]
    zero = torch.zeros(1, dtype=torch.float64)
    levels = torch.cat([-torch.special.ndtri(below), zero, torch.special.ndtri(above).flip(0)])
    return levels / levels.max()


def _groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return groups of neighbours in a row, [N, GROUP], and the largest size in each, [N, 1]."""
    if weight.numel() % GROUP:
        raise InputError(f"a weight of {list(weight.shape)} has no whole groups of {GROUP} entries")
    groups = weight.reshape(-1, GROUP)
    largest = groups.abs().amax(1, keepdim=True)
    return groups, torch.where(largest > 0, largest, 1.0)


def best_of_rank(matrix: Tensor, r: int) -> Tensor:
    """Return the best approximation of rank r, from the eigenvectors of the smaller Gram matrix."""
    if matrix.shape[0] > matrix.shape[1]:
        return best_of_rank(matrix.mT, r).mT
    left = torch.linalg.eigh(matrix @ matrix.mT).eigenvectors[:, -r:]
    return left @ (left.mT @ matrix)


def nuclear_norm(matrix: Tensor) -> float:
    """Return the sum of the singular values of a float64 matrix."""
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    squares = torch.linalg.eigvalsh(small @ small.mT).clamp_min(0)
    return float(squares.sqrt().sum())


def write_summary(out: Path) -> None:
    """Write the tables from the scores that are there."""
    parts = [
        "# Quantisation error with principal adapters\n\n"
        "Share of the nuclear norm of a 4-bit quantisation error that an adapter of rank r takes "
        f"away, in %, groups of {GROUP} entries; means over linear layers ± half a 95 % t interval "
        "over them (they are all layers of the model, so the interval speaks of layers like "
        "these). `pissa-T` and `loftq-T` take T alternating steps. Weights of `smollm2-135m` were "
        "4-bit when they were published (Q4_1, groups of 32), so they lie on a grid that neither "
        "quantiser has; those of `minilm` were never quantised. Made by `python "
        "benchmarks/quantisation_error.py`."
    ]
    for file in sorted((out / "scores").glob("*.json")):
        found = read_json(file)
        settings = sorted({key for layer in found.values() for key in layer}, key=_natural)
        parts += [f"## {file.stem}, {key}\n\n{_table(found, key)}" for key in settings]
    with atomic_file(out / "summary.md") as aside:
        aside.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _natural(setting: str) -> tuple[str, int]:
    name, _, rank = setting.partition(" r=")
    return name, int(rank)


def _table(found: dict[str, Scores], setting: str) -> str:
    kinds: dict[str, list[dict[str, float]]] = defaultdict(list)
    for name, layer in found.items():
        if setting in layer:
            for kind in (_kind(name), "all"):
                kinds[kind].append(layer[setting])
    head = ["layer", "number", *METHODS, "worse than without: pissa-1", "loftq-1"]
    rows = []
    for kind, layers in sorted(kinds.items(), key=lambda item: item[0] == "all"):
        cells = [shown([100 * layer[method] for layer in layers], 2) for method in METHODS]
        worse = [str(sum(layer[key] < 0 for layer in layers)) for key in ("pissa-1", "loftq-1")]
        rows.append([kind, str(len(layers)), *cells, *worse])
    return table(head, rows)


def _kind(name: str) -> str:
    """Return what a layer is called inside its transformer layer."""
    parts = name.split(".")
    start = max((place + 1 for place, part in enumerate(parts) if part.isdigit()), default=0)
    return ".".join(parts[start:])


def claims(out: Path) -> list[Claim]:
    """Return the paper's claims with what is stored."""
    found = []
    for file in sorted((out / "scores").glob("*.json")):
        layers = read_json(file).values()
        for setting in sorted({key for layer in layers for key in layer}, key=_natural):
            rows = [layer[setting] for layer in layers if setting in layer]
            place = f"{file.stem}, {setting}"
            for text, better, worse in COMPARISONS:
                gains = tuple(100 * (row[better] - row.get(worse, 0.0)) for row in rows)
                found.append(Claim("QPiSSA", f"{text} ({place})", "%", gains, "layers", exact=True))
    return found


if __name__ == "__main__":
    main()
