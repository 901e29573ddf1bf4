"""How much of a weight's 4-bit quantisation error do principal adapters take away?

    1 − ‖W − (Q(W_f) + s·BA)‖_* / ‖W − Q(W)‖_*          for every linear layer

‖·‖_* is the sum of singular values. PiSSA moves the principal part of W into the adapter before the
rest is quantised (QPiSSA), once or in alternating steps (Meng, Wang & Zhang 2024,
arXiv:2404.02948). LoftQ begins with Q(W) and lets the adapter follow the error (Li et al. 2023,
arXiv:2310.08659). Nothing is trained and nothing is random.

NF4 has 16 levels at quantiles of a normal distribution, relative to the largest entry of each group
(Dettmers et al. 2023, arXiv:2305.14314); `symmetric` has the 15 whole numbers from −7 to 7 times a
step. Scales are not quantised.

    python -m benchmarks.quantisation_error
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor, nn

from bayeslora.backbones.load import load_backbone
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.results import Results
from benchmarks.quantisation_error.methods import QUANTISERS, errors
from benchmarks.quantisation_error.summary import KEY, write_summary

BACKBONES = ("smollm2-135m", "minilm")
RANKS = (16,)


def main() -> None:
    """Measure the missing layers, then write the tables."""
    parser = study_parser(__doc__, "reports/quantisation-error", data_dir=False, threads=1)
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES))
    parser.add_argument("--ranks", nargs="+", type=int, default=list(RANKS))
    args = parser.parse_args()
    for name in args.backbones:
        run(name, args.ranks, args.out)
        write_summary(args.out)
    print((args.out / "summary.md").read_text(encoding="utf-8"))


def run(backbone: str, ranks: Sequence[int], out: Path) -> None:
    """Measure and store each layer of one backbone."""
    results, model = Results(out, KEY), load_backbone(backbone, dtype="float32").model
    of_model = {"backbone": Path(backbone).name}
    known = {(row["layer"], row["quantiser"], row["r"]) for row in results.rows(**of_model)}
    for place, (name, weight) in enumerate(linear_weights(model)):
        for quantiser in QUANTISERS:
            missing = [r for r in ranks if (name, quantiser, r) not in known]
            for r, scores in errors(weight, quantiser, missing).items():
                layer = {"place": place, "layer": name, "quantiser": quantiser, "r": r}
                results.append(of_model | layer | scores)
    results.sort()


def linear_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the weight [out, in] of every linear layer in float64, without the pooler."""
    for name, module in model.named_modules():
        if type(module) is nn.Linear and "pooler" not in name:
            yield name, module.weight.detach().double()


if __name__ == "__main__":
    main()
