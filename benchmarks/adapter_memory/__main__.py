"""What a training step keeps in memory, and how long it takes, by adapter.

Bytes of the tensors that autograd saves, each storage counted once and those of the model left out;
of the gradients; and of the optimiser's state. They are counted, not read off the process, so they
are the same on every machine. Times are taken in turns, so that a disturbance meets every arm; they
are for a machine that does nothing else.

    python -m benchmarks.adapter_memory
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from bayeslora.backbones.embedded import embedded_directory
from benchmarks.adapter_memory.summary import KEY, ROWS, TOKENS, write_summary
from benchmarks.lib.adapter_arms import LISA_ARM, MEMORY_ARMS, Arm, Setting, Trainee
from benchmarks.lib.adapter_training import BACKBONE, one_step
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.causal_lm import Texts, next_token_loss
from benchmarks.lib.results import Results

OUT = Path("reports/adapter-memory")
REPEATS, NUM_DRAWS = 15, 10


def main() -> None:
    """Run the missing measurements, then write the table."""
    parser = study_parser(__doc__, OUT, data_dir=False, threads=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/adapter-starts"))
    parser.add_argument("--arms", nargs="+", choices=MEMORY_ARMS, default=list(MEMORY_ARMS))
    parser.add_argument("--draws", type=int, default=NUM_DRAWS, help="of LISA's layers")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    args = parser.parse_args()
    nothing = torch.zeros(0, 0, dtype=torch.int64)
    setting = Setting(embedded_directory(BACKBONE), Texts(nothing, {}, {}), args.runs)
    arms = {name: MEMORY_ARMS[name] for name in args.arms}
    measure_bytes(setting, arms, args.draws, args.out)
    measure_times(setting, arms, args.repeats, args.out)
    Results(args.out, KEY).sort()
    write_summary(args.out)
    print((args.out / "summary.md").read_text(encoding="utf-8"))


def measure_bytes(setting: Setting, arms: dict[str, Arm], draws: int, out: Path) -> None:
    """Count the bytes kept by one step of every arm, and by several draws of LISA's layers."""
    results = Results(out, KEY)
    for name, arm in arms.items():
        for seed in range(draws if name == LISA_ARM else 1):
            cell = {"kind": "bytes", "arm": name, "seed": seed}
            if results.get(**cell) is None:
                trainee = arm.begin(setting, arm, arm.rates[0], seed)
                results.append(cell | step_bytes(trainee, tokens(trainee)))


def measure_times(setting: Setting, arms: dict[str, Arm], repeats: int, out: Path) -> None:
    """Time steps of all arms in turns and store each turn; the first step of each arm is left out.

    Another set of arms starts a new comparison.
    """
    results = Results(out, KEY)
    record = results.get(kind="times")
    if record is None or record["arms"] != list(arms):
        record = {"kind": "times", "arms": list(arms), "turns": []}
    if len(record["turns"]) >= repeats:
        return
    trainees = {n: arm.begin(setting, arm, arm.rates[0], 0) for n, arm in arms.items()}
    for trainee in trainees.values():
        one_step(trainee, 0, tokens(trainee))
    for turn in range(len(record["turns"]), repeats):
        seconds = {name: step_seconds(trainee, turn + 1) for name, trainee in trainees.items()}
        record["turns"].append(seconds)
        results.append(record)


def tokens(trainee: Trainee) -> Tensor:
    """Return random ids [ROWS, TOKENS]; neither bytes nor seconds depend on them."""
    size = trainee.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator, union-attr]
    return torch.randint(size, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))


def step_seconds(trainee: Trainee, step: int) -> dict[str, float]:
    """Return the processor time and the wall-clock time of one step, in seconds."""
    ids = tokens(trainee)
    clock, processor = time.perf_counter(), time.process_time()
    one_step(trainee, step, ids)
    return {
        "clock": round(time.perf_counter() - clock, 4),
        "processor": round(time.process_time() - processor, 4),
    }


def step_bytes(trainee: Trainee, ids: Tensor) -> dict[str, int]:
    """Take one step on ids [B, T]; return the number of trained parameters and the kept bytes."""
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
    """Yield the sizes of the storages that autograd saves in the context, by address.

    The graph keeps the storages alive, so no address is reused meanwhile.
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
    """Return the size of all tensors in an optimiser's state, in bytes."""
    return sum(
        value.nbytes
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )


if __name__ == "__main__":
    main()
