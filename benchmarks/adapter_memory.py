"""What a training step keeps in memory, and how long it takes, by adapter.

Bytes of the tensors that autograd saves, each storage counted once and those of the model left out;
of the gradients; and of the optimiser's state. They are counted, not read off the process, so they
are the same on every machine. Times are taken in turns, so that a disturbance meets every arm; they
are for a machine that does nothing else.

    python benchmarks/adapter_memory.py
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from adapter_arms import LISA_ARM, LOWEST, MEMORY_ARMS, PUBLISHED, RANK, Arm, Setting, Trainee
from adapter_speed import BACKBONE
from adapter_training import one_step
from causal_lm import Texts, next_token_loss
from torch import Tensor
from torch.optim import Optimizer
from verdicts import Claim, claims_table, table

from bayeslora.backbones.embedded import embedded_directory
from bayeslora.files import atomic_file, read_json, write_json

OUT = Path("reports/adapter-memory")
ROWS, TOKENS = 2, 128
PARTS, BESIDES = ("activations", "gradients", "optimiser"), ("parameters", "beside")
REPEATS, NUM_DRAWS = 15, 10
FULL, LORA = "full fine-tuning", "lora"

# Who should need less than whom by the papers. What LISA keeps depends on the lowest layer that is
# drawn: its worst draw counts, and its time is that of its draws.
SMALLER: tuple[tuple[str, str, str], ...] = (
    ("LoRA", LORA, FULL),
    ("S²FT", "s2ft", LORA),
    ("S²FT", "s2ft", FULL),
    ("LISA", LOWEST, LORA),
    ("LISA", LOWEST, FULL),
    ("LISA", PUBLISHED, LORA),
    ("LISA", PUBLISHED, FULL),
)
FASTER: tuple[tuple[str, str, str], ...] = (
    ("LoRA", LORA, FULL),
    ("S²FT", "s2ft", LORA),
    ("S²FT", "s2ft", FULL),
    ("LISA", LISA_ARM, LORA),
    ("LISA", LISA_ARM, FULL),
)


def main() -> None:
    """Measure what is not there yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--runs", type=Path, default=Path("runs/adapter-starts"))
    parser.add_argument("--arms", nargs="+", choices=MEMORY_ARMS, default=list(MEMORY_ARMS))
    parser.add_argument("--draws", type=int, default=NUM_DRAWS, help="of LISA's layers")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    nothing = torch.zeros(0, 0, dtype=torch.int64)
    setting = Setting(embedded_directory(BACKBONE), Texts(nothing, {}, {}), args.runs)
    arms = {name: MEMORY_ARMS[name] for name in args.arms}
    measure_bytes(setting, arms, args.draws, args.out)
    measure_times(setting, arms, args.repeats, args.out)
    write_summary(args.out)
    print((args.out / "summary.md").read_text(encoding="utf-8"))


def measure_bytes(setting: Setting, arms: dict[str, Arm], draws: int, out: Path) -> None:
    """Count what one step of every arm keeps, where it is not there yet, and of some draws."""
    for name, arm in arms.items():
        for seed in range(draws if name == LISA_ARM else 1):
            file = out / "bytes" / f"{name.replace(' ', '-')}-seed-{seed}.json"
            if not file.is_file():
                trainee = arm.begin(setting, arm, arm.rates[0], seed)
                write_json(
                    file, {"arm": name, "seed": seed, **step_bytes(trainee, tokens(trainee))}
                )


def measure_times(setting: Setting, arms: dict[str, Arm], repeats: int, out: Path) -> None:
    """Time steps of all arms in turns, each turn kept as it comes; the first of each is left out.

    Another set of arms is another comparison, and begins anew.
    """
    file = out / "times.json"
    found: dict[str, Any] = read_json(file) if file.is_file() else {}
    if found.get("arms") != list(arms):
        found = {"arms": list(arms), "turns": []}
    if len(found["turns"]) >= repeats:
        return
    trainees = {n: arm.begin(setting, arm, arm.rates[0], 0) for n, arm in arms.items()}
    for trainee in trainees.values():
        one_step(trainee, 0, tokens(trainee))
    for turn in range(len(found["turns"]), repeats):
        seconds = {name: step_seconds(trainee, turn + 1) for name, trainee in trainees.items()}
        found["turns"].append(seconds)
        write_json(file, found)


def tokens(trainee: Trainee) -> Tensor:
    """Return ids [ROWS, TOKENS]; what they say matters neither to bytes nor to seconds."""
    size = trainee.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator, union-attr]
    return torch.randint(size, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))


def step_seconds(trainee: Trainee, step: int) -> dict[str, float]:
    """Return the processor's and the clock's seconds of one step."""
    ids = tokens(trainee)
    clock, processor = time.perf_counter(), time.process_time()
    one_step(trainee, step, ids)
    return {
        "clock": round(time.perf_counter() - clock, 4),
        "processor": round(time.process_time() - processor, 4),
    }


def step_bytes(trainee: Trainee, ids: Tensor) -> dict[str, int]:
    """Take one step on ids [B, T] and return how many parameters train and what it keeps."""
    trainee.before_step(0)
    with counted(trainee.model) as saved:
        loss = next_token_loss(trainee.model, ids)
    loss.backward()
    trainee.optimizer.step()
    trained = [p for p in trainee.model.parameters() if p.requires_grad]
    return {
        "parameters": sum(p.numel() for p in trained),
        "activations": sum(saved.values()),
        "gradients": sum(p.grad.nbytes for p in trained if p.grad is not None),
        "optimiser": state_bytes(trainee.optimizer),
        "beside": trainee.beside,
    }


@contextmanager
def counted(model: torch.nn.Module) -> Iterator[dict[int, int]]:
    """Yield the sizes of the storages that autograd saves meanwhile, by address.

    The graph keeps what it saves, so no address is used twice while it lives.
    """
    own = {v.untyped_storage().data_ptr() for v in (*model.parameters(), *model.buffers())}
    sizes: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        yield sizes


def state_bytes(optimizer: Optimizer) -> int:
    """Return the size of all tensors in an optimiser's state."""
    return sum(
        value.nbytes
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )


def write_summary(out: Path) -> None:
    """Write the table from what is there."""
    times = _times(out)
    rows = [_row(name, item, times) for name, item in _read(out).items()]
    head = ["arm", "trained, million", "activations", "gradients", "optimiser", "sum", "beside"]
    head += ["s", "cpu s"]
    parts = [
        "# Memory and time of a training step\n\n"
        f"SmolLM2-135M with its output layer, float32, {ROWS} × {TOKENS} tokens, r = {RANK} on all "
        "linear layers. MB (10⁶ bytes) of what autograd saves, of gradients and of the optimiser's "
        f"state; `{LISA_ARM}` is the mean over draws of its two layers, `{LOWEST}` the worst draw "
        f"that there is, and `{PUBLISHED}` the published setting, in which the embedding trains at "
        "every step. `beside` is not in the sum: what is kept beside the backbone's weights, the "
        "adapter's own and, with LISA, copies of all that may train, as the backbone is shared "
        "and stays as it was. Seconds of a whole step on one "
        f"thread, by the clock and of the processor: medians of {len(times)} turns, `{LISA_ARM}` "
        "with another draw in each. "
        "Made by `python benchmarks/adapter_memory.py`.",
        table(head, rows),
        "## Claims\n\n" + claims_table(claims(out)),
    ]
    with atomic_file(out / "summary.md") as aside:
        aside.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _row(name: str, item: dict[str, float], times: list[dict[str, dict[str, float]]]) -> list[str]:
    parts = [item[key] for key in PARTS]
    turns = [turn[name] for turn in times if name in turn]
    seconds = [
        f"{median(turn[key] for turn in turns):.2f}" if turns else ""
        for key in ("clock", "processor")
    ]
    sizes = [f"{part / 1e6:.1f}" for part in parts]
    sizes += [f"{sum(parts) / 1e6:.0f}", f"{item['beside'] / 1e6:.0f}"]
    return [name, f"{item['parameters'] / 1e6:.2f}", *sizes, *seconds]


def claims(out: Path) -> list[Claim]:
    """Return the papers' claims with what is stored."""
    found, times = _read(out), _times(out)
    listed = []
    for method, name, rival in SMALLER:
        exact: tuple[float, ...] = ()
        notes = ""
        if name in found and rival in found:
            own, other = _total(found[name]), _total(found[rival])
            exact = ((other - own) / 1e6,)
            notes = f"{other / own:.2f} times less; {_with_beside(found[name], found[rival])}"
        text = f"{name} keeps less than {rival} in a step"
        listed.append(Claim(method, text, "MB", exact, "counted", exact=True, notes=notes))
    for method, name, rival in FASTER:
        pairs = [
            (t[name]["processor"], t[rival]["processor"]) for t in times if {name, rival} <= {*t}
        ]
        faster = tuple(other - own for own, other in pairs)
        ratio = f"{median(b / a for a, b in pairs):.2f} times faster" if pairs else ""
        text = f"{name} takes less time a step than {rival}"
        listed.append(Claim(method, text, "s of the processor", faster, "turns", notes=ratio))
    return listed


def _with_beside(own: dict[str, float], rival: dict[str, float]) -> str:
    """Return how two arms compare when what they keep beside the backbone is counted too."""
    ours, other = (_total(item) + item["beside"] for item in (own, rival))
    return f"with what is kept beside the weights {ours / 1e6:.0f} MB against {other / 1e6:.0f}"


def _total(item: dict[str, float]) -> float:
    return sum(item[key] for key in PARTS)


def _read(out: Path) -> dict[str, dict[str, float]]:
    """Return the bytes of every arm that is there, means over draws, in the arms' order."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for file in sorted((out / "bytes").glob("*.json")):
        item = read_json(file)
        found[item["arm"]].append(item)
    return {
        name: {key: fmean(item[key] for item in found[name]) for key in (*PARTS, *BESIDES)}
        for name in MEMORY_ARMS
        if name in found
    }


def _times(out: Path) -> list[dict[str, dict[str, float]]]:
    file = out / "times.json"
    turns: list[dict[str, dict[str, float]]] = read_json(file)["turns"] if file.is_file() else []
    return turns


if __name__ == "__main__":
    main()
