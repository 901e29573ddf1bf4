"""Do principal starts learn faster than LoRA, and which adapter forgets least?

SmolLM2-135M as a language model, adapters of rank 16 on all linear layers, a few dozen steps on
OpenBookQA at a constant rate, several rates an arm; all arms see the same batches. A few steps on
little text are where the papers (PiSSA, CorDA, PoLAR) expect a lead at all: nothing is said of
where long training ends.

Speed is the area under the training loss, and the loss on questions that were not trained on.
Forgetting is the loss on passages of Wikipedia, compared at equal loss on those questions, since an
arm that learns less forgets less. For every seed the rate of an arm is the best on the other seeds.
Everything is stored as it comes; the same command goes on where it was interrupted.

    python -m benchmarks.adapter_speed --data-dir DIR
"""

from __future__ import annotations

from benchmarks.adapter_speed.summary import OUT, write_summary
from benchmarks.lib.adapter_arms import ARMS
from benchmarks.lib.adapter_training import (
    KEY,
    MARKS,
    STEPS,
    Bench,
    arguments,
    base_losses,
    open_setting,
    run,
)
from benchmarks.lib.results import Results


def main() -> None:
    """Run the missing fits, then write the tables."""
    args = arguments(__doc__, OUT, ARMS)
    setting = open_setting(args)
    bench = Bench(setting, {name: ARMS[name] for name in args.arms}, args.out, STEPS, MARKS)
    base_losses(bench)
    for seed in args.seeds:
        for name, arm in bench.arms.items():
            for lr in arm.rates:
                run(bench, name, lr, seed)
            write_summary(args.out)
    Results(args.out, KEY).sort()


if __name__ == "__main__":
    main()
