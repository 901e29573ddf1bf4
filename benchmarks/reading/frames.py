"""In which words around a text does the language model know the class best, without a label?

Zero-shot NLL and accuracy of SmolLM2-135M on 300 development rows of each set, with the mean
answer to them taken off. The rule, written before the run: the default template of decoders is the
frame with the lowest mean NLL over the sets.

    python -m benchmarks.reading.frames --data-dir DIR
"""

from __future__ import annotations

from statistics import fmean

from bayeslora import BayesianClassifier, evaluate
from bayeslora.backbones.load import load_backbone
from bayeslora.data.examples import class_names
from bayeslora.io.files import atomic_file
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.pools import TEXT_TOKENS, development, drawn, frame_tokens
from benchmarks.lib.task_rows import TASKS

FRAMES = (
    "Text: {text}\nCategory:",
    "{text}\nCategory:",
    "Text: {text}\nIn one word:",
    "Text: {text}\nTopic:",
    "Text: {text}\nClass:",
    "Text: {text}\nLabel:",
    "{text}\n\nIn one word, this text is",
    "Text: {text}\nAnswer:",
    "Text: {text}\nThe class of this text is",
    "Input: {text}\nOutput:",
)
NUM_ROWS = 300


def main() -> None:
    """Score every frame and write the table."""
    args = study_parser(__doc__, "reports/reading/frames.md", threads=None).parse_args()
    backbone = load_backbone("smollm2-135m")
    pools = {task: development(task, args.data_dir).score for task in TASKS}
    table = []
    for frame in FRAMES:
        length = TEXT_TOKENS + frame_tokens(backbone, frame)
        values = []
        for pool in pools.values():
            rows = drawn(pool, NUM_ROWS, 5)
            clf = BayesianClassifier(
                backbone, template=frame, max_length=length, progress=False
            ).zero_shot(class_names(pool), rows)
            scores = evaluate(clf.predict(rows), num_resamples=20)
            values.append((scores["nll"].value, scores["accuracy"].value))
            backbone.prefix_states.clear()
        mean = fmean(nll for nll, _ in values)
        print(repr(frame), f"{mean:.3f}", flush=True)
        cells = " | ".join(f"{nll:.3f} / {accuracy:.3f}" for nll, accuracy in values)
        table.append((mean, f"| `{frame!r}` | {cells} | {mean:.3f} |"))
    lines = [
        "# Words around a text",
        "",
        f"Zero-shot NLL in nats / accuracy on {NUM_ROWS} development rows. Made by "
        "`python -m benchmarks.reading.frames --data-dir DIR`.",
        "",
        f"| template | {' | '.join(pools)} | mean NLL |",
        "|---" * (2 + len(pools)) + "|",
        *(line for _, line in sorted(table)),
    ]
    with atomic_file(args.out) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
