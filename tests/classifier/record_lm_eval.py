"""Scores of lm-evaluation-harness for a tiny model, for `test_classifier_questions.py`.

Run it where `lm_eval` is installed; the tests need only the recorded file:

    python tests/classifier/record_lm_eval.py
"""

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny import lettered_llama, toy_questions

from bayeslora.backbones.encoder import with_letters
from bayeslora.backbones.options import FRAME
from bayeslora.engine.build import LETTERS_FRAME

FILE = Path(__file__).with_name("lm_eval_scores.json")
COUNT, SEED = 100, 11


def requests(rows):
    """Return the pairs of prompt and continuation of every question, by format."""
    pairs = {"letters": [], "options": []}
    for row in rows:
        question, options = row["question"], row["choices"]
        prompt = LETTERS_FRAME.replace("{text}", with_letters(question, options))
        pairs["letters"] += [(prompt, f" {'ABC'[place]}") for place in range(len(options))]
        prompt = FRAME.replace("{text}", question)
        pairs["options"] += [(prompt, f" {option}") for option in options]
    return pairs


def main():
    """Write the log-likelihood of every continuation, in the order of questions and options."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    with tempfile.TemporaryDirectory() as folder:
        model = lettered_llama(Path(folder) / "model")
        lm = HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=16)
        prompts = requests(toy_questions(COUNT, SEED))
        scores = {"lm_eval": version("lm_eval")}
        for name, pairs in prompts.items():
            instances = [
                Instance("loglikelihood", {}, pair, place) for place, pair in enumerate(pairs)
            ]
            scores[name] = [round(score, 7) for score, _ in lm.loglikelihood(instances)]
    FILE.write_text(json.dumps(scores) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
