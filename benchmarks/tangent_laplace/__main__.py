"""Does a posterior over PoLAR's directions, tangent to their manifold, pay on a toy?

A weight posterior of PoLAR is over its core, Θ, and the last layer; the orthonormal X and Y are
points. Here X and Y are random too: a linearised Laplace approximation over all of (X, Θ, Y) and
the last layer, with the Jacobian of X and Y projected to the tangent space of their manifold. The
prior is a matrix Langevin distribution around the start, −κ/2 ‖X − X_0‖², and since the network is
linearised no retraction enters the prediction. (The idea is that of arXiv 2602.17809, of which we
read the abstract alone.)

Each seed makes a world: a frozen network of two layers, a teacher with a change of rank two in
both, and rows with drawn labels. PoLAR with a point-estimate head is trained on the rows. The
precision of each block's prior maximises the marginal likelihood with the exact Gauss-Newton
matrix, in float64.

Rule, written before the run: a posterior over the directions is worth building if its NLL is below
that of `core` by more than the 95 % t interval of paired differences, at both sizes.

    python -m benchmarks.tangent_laplace
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.functional import cross_entropy

from bayeslora import Predictions, evaluate
from bayeslora.adapters.low_rank import LowRank
from bayeslora.adapters.optimizers import build_optimizer
from bayeslora.adapters.polar import PoLAR, tangent
from bayeslora.links import link_probabilities
from bayeslora.logits import GaussianLogits
from bayeslora.metrics.ood import detection, sorted_by_uncertainty
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.results import Results
from benchmarks.lib.tables import shown, table

KEY = ("rows", "seed", "method")
SIZES, SEEDS = (64, 256), 10
WIDTH, CLASSES, RANK, TEACHER_RANK = 32, 4, 4, 2
TEST_ROWS, EPOCHS, BATCH = 2000, 40, 16
SCORES = ("accuracy", "nll", "ece", "far")
BLOCKS = {"point estimate": (), "head": ("head",), "core": ("head", "core")}
BLOCKS["directions"] = ("head", "core", "A", "B")
PRECISIONS = torch.logspace(-2, 5, 22, dtype=torch.float64)
_ROUNDS = 3


class Net(nn.Module):
    """Two layers with a linear head, in float64."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, CLASSES, bias=False)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * WIDTH**-0.5
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [..., CLASSES] of inputs [..., WIDTH]."""
        for layer in self.layers:
            x = torch.tanh(2 * layer(x))
        logits: Tensor = self.head(x)
        return logits


@dataclass(frozen=True)
class World:
    """A frozen network and rows labelled by a different teacher.

    Attributes:
        net: The network before adaptation.
        train: Inputs [N, WIDTH] and labels [N].
        test: Inputs and labels of test rows.
        far: Inputs from another distribution.
    """

    net: Net
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    far: Tensor


def world_of(seed: int, rows: int) -> World:
    """Create the world of a seed; smaller training sets are prefixes of larger ones."""
    generator = torch.Generator().manual_seed(seed)
    net = Net(generator)
    teacher = Net(generator)
    teacher.load_state_dict(net.state_dict())
    with torch.no_grad():
        for layer in teacher.layers:
            U, V = (torch.randn(WIDTH, TEACHER_RANK, generator=generator) for _ in range(2))
            layer.weight += (U @ V.mT).double() / WIDTH
        teacher.head.weight *= 6
    x = torch.randn(TEST_ROWS + max(SIZES), WIDTH, generator=generator).double()
    with torch.no_grad():
        labels = torch.multinomial(teacher(x).softmax(-1), 1, generator=generator)[:, 0]
    far = (3 * torch.randn(TEST_ROWS, WIDTH, generator=generator) + 1).double()
    nn.init.zeros_(net.head.weight)
    test = x[:TEST_ROWS], labels[:TEST_ROWS]
    train = x[TEST_ROWS : TEST_ROWS + rows], labels[TEST_ROWS : TEST_ROWS + rows]
    return World(net, train, test, far)


def adapted(world: World, seed: int) -> Net:
    """Return the network with PoLAR adapters and a head, trained on the rows."""
    net, adapter = world.net, PoLAR(r=RANK, lr=1e-2)
    generator = torch.Generator().manual_seed(seed + 1000)
    hosts = {f"layers.{n}": layer for n, layer in enumerate(net.layers)}
    sites = adapter.make_sites(net, hosts, generator)
    net.requires_grad_(False)
    for n, site in enumerate(sites):
        net.layers[n] = site.double()
    net.head.requires_grad_(True)
    optimizer = build_optimizer(sites, net.head.parameters(), adapter, 2e-2)
    x, labels = world.train
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x), generator=generator).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(net(x[batch]), labels[batch]).backward()
            optimizer.head_step()
            optimizer.step()
    return net.requires_grad_(False)


def jacobians(net: Net, x: Tensor) -> dict[str, Tensor]:
    """Return d logits / d block, [N, C, P], for directions projected to the tangent space."""
    own = {name: value for name, value in net.named_parameters() if _block(name)}

    def logits(parameters: Mapping[str, Tensor], row: Tensor) -> Tensor:
        output: Tensor = functional_call(net, dict(parameters), (row,))
        return output

    by_block: dict[str, list[Tensor]] = {}
    for name, jacobian in vmap(jacrev(logits), (None, 0))(own, x).items():
        block, along = _block(name), jacobian
        if block == "A":
            along = _projected(own[name].mT, jacobian.mT)
        elif block == "B":
            along = _projected(own[name], jacobian)
        by_block.setdefault(block, []).append(along.flatten(2))
    return {block: torch.cat(parts, -1) for block, parts in by_block.items()}


def _projected(Z: Tensor, jacobian: Tensor) -> Tensor:
    """Project a Jacobian [N, C, n, r] to the tangent space at Z [n, r]."""
    projected: Tensor = vmap(vmap(lambda G: tangent(Z, G)))(jacobian)
    return projected


def _block(name: str) -> str:
    """Return the block of a parameter: `head`, `core`, `A` or `B`; empty if it is frozen."""
    if name.startswith("head"):
        return "head"
    place = name.split(".")[-2]
    return place if place in {"core", "A", "B"} else ""


def posterior(
    net: Net, world: World, blocks: Sequence[str], J: Mapping[str, Tensor]
) -> tuple[dict[str, float], Tensor]:
    """Return the prior precision of each block and the joint covariance [P, P].

    The evidence is computed in the space of logits: with a square root L of the likelihood's
    curvature, log det(I + L J Δ⁻¹ Jᵀ Lᵀ) needs no matrix larger than N·C.
    """
    x, labels = world.train
    logits = net(x)
    probs = logits.softmax(-1)
    curvature = torch.diag_embed(probs) - probs[:, :, None] * probs[:, None, :]
    values, vectors = torch.linalg.eigh(curvature)
    root = values.clamp(min=0).sqrt()[:, :, None] * vectors.mT
    parts = {block: (root @ J[block]).flatten(0, 1) for block in blocks}
    mode = {
        block: sum(
            float((value - _centre(net, name)).square().sum())
            for name, value in net.named_parameters()
            if _block(name) == block
        )
        for block in blocks
    }
    precision = dict.fromkeys(blocks, 1.0)

    def evidence(candidate: Mapping[str, float]) -> float:
        gram = sum(part @ part.mT / candidate[block] for block, part in parts.items())
        eye = torch.eye(len(gram), dtype=torch.float64)
        fit = -float(cross_entropy(logits, labels, reduction="sum"))
        prior = sum(candidate[block] * mode[block] for block in blocks)
        return fit - 0.5 * prior - 0.5 * float(torch.linalg.slogdet(eye + gram)[1])

    for _ in range(_ROUNDS):
        for block in blocks:
            precision[block] = max(
                map(float, PRECISIONS), key=lambda value, b=block: evidence({**precision, b: value})
            )
    whole = torch.cat([parts[block] for block in blocks], -1)
    delta = torch.cat(
        [torch.full((J[block].shape[-1],), precision[block]).double() for block in blocks]
    )
    return precision, torch.linalg.inv(whole.mT @ whole + torch.diag(delta))


def _centre(net: Net, name: str) -> Tensor:
    """Return the prior mean of a parameter: its initial value for directions, otherwise zero."""
    path, layer, _ = name.rsplit(".", 2) if name.count(".") > 1 else ("", "", "")
    site = net.get_submodule(path)
    if isinstance(site, LowRank):
        return site.origin()[layer]
    return torch.zeros_like(net.get_parameter(name))


def scores(net: Net, world: World, blocks: Sequence[str]) -> dict[str, float]:
    """Return the scores of a posterior over the given blocks, and its prior precisions."""
    train = jacobians(net, world.train[0])
    precision, covariance = posterior(net, world, blocks, train) if blocks else ({}, None)

    def predicted(x: Tensor, labels: Tensor | None) -> Predictions:
        mean = net(x)
        variance = torch.zeros(*mean.shape, CLASSES).double()
        if covariance is not None:
            own = jacobians(net, x)
            J = torch.cat([own[block] for block in blocks], -1)
            variance = J @ covariance @ J.mT
        linked = link_probabilities(GaussianLogits(mean, variance), num_samples=1000, seed=0)
        return Predictions(
            linked.probs.numpy(), tuple("abcd"), None if labels is None else labels.numpy()
        )

    inside = predicted(*world.test)
    outside = predicted(world.far, None)
    result = evaluate(inside, num_resamples=20)
    far = detection(sorted_by_uncertainty(1 - inside.probs.max(1), 1 - outside.probs.max(1)))[0]
    return {
        **{key: result[key].value for key in SCORES if key != "far"},
        "far": float(far),
        **{f"precision {block}": value for block, value in precision.items()},
    }


def main() -> None:
    """Run the missing fits, then write the table."""
    parser = study_parser(__doc__, "reports/tangent-laplace", data_dir=False, threads=None)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    args = parser.parse_args()
    results = Results(args.out, KEY)
    for rows, seed in product(args.sizes, range(args.seeds)):
        cell = {"rows": rows, "seed": seed}
        if len(results.rows(**cell)) == len(BLOCKS):
            continue
        world = world_of(seed, rows)
        net = adapted(world, seed)
        for method, blocks in BLOCKS.items():
            results.append({**cell, "method": method, **scores(net, world, blocks)})
    results.sort()
    write_table(args.out)
    print((args.out / "summary.md").read_text(encoding="utf-8"))


def write_table(folder: Path) -> None:
    """Write `summary.md` from the results."""
    results = Results(folder, KEY)
    lines = [
        "# A posterior over PoLAR's directions, on a toy",
        "",
        "Linearised Laplace over the last layer (*head*), the cores too, and the orthonormal"
        " directions too, along the tangent space of their manifold; means over seeds ± half the"
        " 95 % t interval. *far*: AUROC of inputs of another distribution by the highest"
        " probability. Below, the paired difference from *core*. Made by"
        " `python -m benchmarks.tangent_laplace`.",
    ]
    for rows in sorted({row["rows"] for row in results.rows()}):
        methods = {
            method: {row["seed"]: row for row in results.rows(rows=rows, method=method)}
            for method in BLOCKS
        }
        body = [
            [method, *(shown([row[key] for row in own.values()]) for key in SCORES)]
            for method, own in methods.items()
        ]
        less = [
            [
                f"{method} less core",
                *(
                    shown([row[key] - methods["core"][seed][key] for seed, row in own.items()])
                    for key in SCORES
                ),
            ]
            for method, own in methods.items()
            if method != "core"
        ]
        lines += ["", f"## {rows} rows", "", table(("method", *SCORES), body + less)]
    (folder / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
