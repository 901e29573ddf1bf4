"""Does PoLAR use more directions than LoRA, and does it converge faster?

After the published setting, at a size that fits: rank 8 and alpha 32 on query, key, value, up and
down projections, PoLAR at its rate of 4e-3 and LoRA at 4e-4, the same batches of multiple-choice
questions (Lion, Zhang, Li & He 2025, arXiv:2506.03133). Smaller batches and few steps at a constant
rate are ours. PoLAR's factors stay on the manifold by retraction, our default, or are pulled to it,
as published. LoRA is trained with PoLAR's rate too, to tell the adapter from the rate. What all
adapters do at rank 16 and at several rates is in `adapter_speed`.

    python -m benchmarks.stable_rank --data-dir DIR
"""

from __future__ import annotations

from benchmarks.lib.adapter_training import KEY, Bench, arguments, base_losses, open_setting, run
from benchmarks.lib.results import Results
from benchmarks.stable_rank.summary import ARMS, MARKS, OUT, STEPS, write_summary


def main() -> None:
    """Run the missing fits, then write the tables."""
    args = arguments(__doc__, OUT, ARMS)
    arms = {name: ARMS[name] for name in args.arms}
    bench = Bench(open_setting(args), arms, args.out, STEPS, MARKS)
    base_losses(bench)
    for seed in args.seeds:
        for name, arm in arms.items():
            for lr in arm.rates:
                run(bench, name, lr, seed)
        write_summary(args.out)
    Results(args.out, KEY).sort()


if __name__ == "__main__":
    main()
