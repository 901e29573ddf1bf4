"""What is the best use of one labelled file? Every method has the same rows and nothing else.

Each seed draws L rows anew; a method that tunes pays for its held-out rows out of them: `split`
holds out a fifth, trains on the rest and chooses by the fifth (`fit(hold_out=0.2)`); `refit` then
fits to all rows with what was chosen; `cv` chooses the scale of the logits by rows held out of
further fits and trains on all (with LoRA-MLE it is temperature scaling by cross-validation);
`folds` keeps the networks of five such fits, a pass each, in place of the one to all rows
(`fit(cv="auto", keep_folds=True)`). Rows are scored on the development rows of `reading`. All
methods read texts as `fit` does by default. The number of fits stands beside each score.

The stored cells are of fits before `default_fit`: with `cv` the network of all rows predicts alone,
after five epochs from a last layer of zeros.

Rules, written before the run (the cells of `reading`, and prototypes at 128 rows with seed 0,
had been seen):

1. `fit` takes `cv="auto"` by default for a VBLL beside an adapter if the mean NLL over the three
   development sets and L = 32, 128 and 640 is lower than without by more than the 95 % t interval
   of the paired differences, and no set at no L is worse by more than .01 on average.
2. If only small L gain, it is taken up to the largest L at which the mean over sets gains .01.

   With 15 epochs rule 1 was met on SmolLM2; on MiniLM AG News was .018 worse at 32 rows (one
   seed). With five, the mean gains .045 ± .024 (36 pairs), but SST-2 loses
   .018 at 32 and .013 at 128 rows on SmolLM2, and AG News .013 at 128 rows on MiniLM, more than
   the rule allows. The default stays, for the mean and for an ECE that is .056 ± .028 lower: an
   exception to the rule.

Written when the cells of PoLAR-VBLL and LoRA-MLE with and without `cv` were there, and no other:

3. Of `cv`, `split` and `refit`, PoLAR-VBLL's default without validation rows is the one with the
   lowest mean NLL over sets, L of at least 128 and both backbones; the present one stays where the
   difference is within the 95 % t interval.

   `cv` stays: on MiniLM at 128 rows a split is .040 ± .062 higher, with a refit .020 ± .046 (six
   pairs); on SmolLM2 neither was run.

4. PoLAR-VBLL is said to be ahead of a rival at its scheme where the 95 % t interval of the paired
   differences in NLL, over sets, seeds and L of at least 128, leaves out zero.

Written when `reports/own-tokens` was there and no cell with a distance of features:

5. `fit` keeps the Mahalanobis distance of the features by default, and detection takes it first, if
   at 128 rows its mean AUROC over sets and seeds is above that of the highest probability, of
   epistemic uncertainty and of logit variance on both backbones, for far rows and for near ones.

   It is not so for near rows: at 128 rows of SmolLM2 it has .651 (two seeds, newsgroups), the
   highest probability .689. `unfamiliarity` combines several scores by a rule of its own
   (`unfamiliarity_weight`).

Written before any fit to a set that judges:

6. `clinc150_20`, `boolq_question_only` and `reuters_r8` (`--tasks`) see the finished defaults and
   decide nothing. Rule 4 is applied to them at 128 rows, three seeds and both backbones, in tables
   of their own; a lead that development rows show and these don't is not claimed.

Written before any fit from a gradient start:

7. A start from the gradient (`gradient_start`) becomes PoLAR's default where training rows are
   read if at 128 rows, over the development sets, two seeds and both backbones (12 pairs), it
   lowers PoLAR-VBLL's mean NLL with `cv` by more than the 95 % t interval. Five epochs in the place
   of 15 become the default with it if their mean is at most .005 above that of 15.

   It is not: .001 ± .009 lower (12 pairs; MiniLM .003 ± .018 higher, SmolLM2 .005 ± .012 lower).

Written before any long fit, ensemble or fit with another head rate:

8. *Long* is 5,000 steps of 4 rows, nothing chosen and nothing held out, at 640 rows. The claims to
   reach, each by the interval of the paired differences in NLL over sets and seeds: PoLAR-VBLL at
   least .1 below LoRA, and not above PoLAR; with `cv` at 128 rows not above the ensemble of three.
   Head rates are controls: where PoLAR at VBLL's rate is tied with PoLAR-VBLL, what VBLL gains in
   training is its rate.

   VBLL's rate is .05 in such short fits. LoRA at .05 is tied with LoRA at its own .02 (.015 ± .123
   at 32 rows, −.001 ± .034 at 128; MiniLM, three and five pairs), PoLAR too (.008 ± .083, .015 ±
   .046).

Written when one cell with five epochs was there (newsgroups, MiniLM, 128 rows: .468; 15: .493):

9. PoLAR trains five epochs without validation rows, as other adapters do, if over the development
   sets, two seeds and both backbones at 128 rows PoLAR-VBLL's mean NLL with `cv` is lower than
   after 15, and at 640 rows, over the sets and backbones that are run, at most .01 higher. Where
   it is more than .01 higher at 32 rows, fits of fewer than 128 rows take as many steps as one of
   128. (The last sentence was written with two cells there, none of 32 rows.)

Written when five epochs had six pairs of MiniLM and two of SmolLM2, from numbers that were misread
(.027 ± .022 lower and .03, .08 higher; they are .020 ± .024 lower and .03, .04 higher):

10. Rule 9 is applied by kind of backbone: an encoder takes five epochs if the interval of its six
    pairs leaves out zero; a decoder keeps 15 unless its own six pairs say otherwise, or five epochs
    at the rate of 15 (`lr=0.01`) are at most .005 higher. If that rate's mean is at most .005 above
    that of five epochs on the encoder too, it is the default of both. (No cell of that rate was
    there.)

    So nothing changes: the encoder's interval holds zero, and the decoder is .009 ± .028 higher at
    that rate (six pairs). Neither is a clear difference, at a third of the steps.

A first rule 11 asked for six further pairs of seeds 2 and 3 on the encoder, with all twelve leaving
out zero; it was withdrawn, before such a cell was run, for this one:

Written for cost, before any cell of five epochs at 640 rows, with those of 128 known (at .01:
MiniLM -.007 ± .053, SmolLM2 .009 ± .028, six pairs each):

11. Five epochs at the rate of 15 (`lr=0.01`), a third of the steps, are PoLAR's default without
    validation rows on both kinds of backbones if over all pairs of 128 and 640 rows (18: two seeds
    at 128, one at 640) the mean NLL with `cv` is at most .005 above that of 15 epochs and the upper
    end of its interval at most .02. Fits of fewer than 128 rows then take as many steps as one of
    128 (rule 9).

    So it is: .002 ± .017 lower (18 pairs). Since then `polar` without more is five epochs at .01,
    and cells before it are called by their 15 epochs.

Written with one seed of 32 rows there (seed 0), before any other:

12. At 32 rows the main one-pass methods have three seeds on both backbones (9 pairs each).
    PoLAR-VBLL is said to be ahead of a rival there where the 95 % t interval of the paired
    differences in NLL leaves out zero, and of all where it does for each. If rule 11 changes the
    default, it is the changed one that counts, on all three seeds. LoRA with PoLAR's 15 epochs is a
    rival too, since five epochs of 32 rows are ten steps, which may be too few for it.

    It is not ahead: NLL is .019 ± .042 below that of LoRA with 15 epochs on SmolLM2, .010 ± .030 on
    MiniLM (nine pairs each). LoRA with ten steps is .281 ± .145 and .043 ± .050 behind. With the 40
    steps that `fit` takes since rule 13, LoRA is .011 ± .032 and .032 ± .035 behind. LoRA-VBLL
    and PoLAR have one seed on MiniLM, and Laplace and the last layer alone have no more.

13. If LoRA-MLE with `cv` has a lower mean NLL there after 15 epochs than after five, by more than
    the 95 % t interval (18 pairs), fits of fewer than 128 rows take as many steps as one of 128
    with every adapter.

    So it is: .147 ± .079 lower (18 pairs). The lead that PoLAR-VBLL seemed to have at 32 rows was
    over a LoRA that had too few steps.

Written before any fit of SWAG here:

14. SWAG, which averages weights at a constant rate, had kept PoLAR's lower rate (`lr=0.004`). It
    takes the common one (`lr=0.01`) if that is at most .01 higher in mean NLL (MiniLM, 128 rows,
    two seeds, six pairs).

    It is .004 lower.

Written with twelve pairs of MiniLM there (32 and 128 rows, refitted means .062 higher) and none of
8 rows or of SmolLM2:

15. Without held-out rows (`cv=0`) a VBLL keeps the means of its training where it refitted them
    after few steps, if that is lower in mean NLL on SmolLM2 at 32 and 128 rows (two seeds, 12
    pairs) and at most .02 higher at 8 rows (two seeds, both backbones, 12 pairs). `cv 0` is then
    the fit of `cv` without its factor.

    So it is: refitted means are .032 ± .055 higher on SmolLM2 (12 pairs), .062 ± .050 on MiniLM
    (12), and .068 ± .117 at 8 rows (12; SmolLM2 alone .078 ± .060 lower, as refitted means start
    from the language model's answer).

Written when one fit without an adapter had been seen with and without a factor (96 rows, MiniLM,
NLL .637 and .810, 22 points underconfident without), and no cell:

16. Without an adapter `fit` chooses the scale by `cv`, as with one, if at 128 rows, over the
    development sets, two seeds and both backbones (12 pairs), that lowers the mean NLL of VBLL by
    more than the 95 % t interval.

    It does not: .022 ± .052 lower over the six draws (newsgroups gains, the other sets lose or are
    tied).

Written before any cell of 960 or 2,000 rows, of SWAG or Laplace on LoRA, or of later posts:

17. The four main methods with `cv` have 960 rows (three seeds) and 2,000 (one) on MiniLM, LoRA with
    SWAG and with a Laplace approximation of its weights 128 (two seeds). They choose nothing; rule
    4 is applied to them. The by-date test posts of newsgroups are scored beside the others, as a
    shift. Draws of 2,000 out of 3,200 rows share most of them, so their spread says little of rows.

    So far one seed of 960 rows is there; no clear difference. 2,000 rows, LoRA with SWAG and with
    Laplace were not run.

Written before any cell of 128 tokens:

18. The four main methods with `cv` have 128 rows of newsgroups and AG News, of which 128 tokens of
    a text are read, on MiniLM (two seeds). They choose nothing; rule 4 is applied to them.

    One seed was run, which decides nothing: NLL of PoLAR-VBLL is .010 and .015 above that of LoRA,
    .062 below and .003 above that of PoLAR, .012 below and level with that of LoRA-VBLL.

What was found meanwhile: a factor of means and deviations cannot make a variational layer sure
enough of few rows, so that it multiplies the means alone now; and refitted means were worse at 32
rows. Cells of fits before that are called so. Prototypes
that averaged the network with those of the parts, at rank r, gained on some pairs and lost on
others, on average no more than chance explains; that was taken out again.

Everything is stored as it comes, and the same command goes on where it was stopped.

    python -m benchmarks.label_budget --data-dir DIR
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from itertools import product
from pathlib import Path

import torch

from bayeslora import BayesianClassifier, evaluate, register_adapter
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.data.examples import Examples
from bayeslora.engine.training.final_fit import scale_logits
from bayeslora.metrics.ood import detection, sorted_by_uncertainty
from benchmarks.label_budget.gradient_start import GradientPoLAR
from benchmarks.label_budget.methods import BACKBONES, KEY, METHODS
from benchmarks.label_budget.summary import write_table
from benchmarks.lib.pools import (
    JUDGED,
    LONGER,
    Pools,
    drawn,
    new_classifier,
    pools_of,
)
from benchmarks.lib.results import Results, import_cells
from benchmarks.lib.task_rows import TASKS

SIZES, _FEWEST_TO_SPLIT = (32, 128, 640), 128
_PRINTED = ("nll", "accuracy", "ece", "overconfidence")
_OOD = ("max_probability", "epistemic", "logit_variance", "mahalanobis")


def main() -> None:
    """Run the missing fits, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("reports/label-budget"))
    parser.add_argument(
        "--tasks", nargs="+", choices=(*TASKS, *JUDGED, *LONGER), default=list(TASKS)
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--backbone", choices=BACKBONES, default=BACKBONES[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--import-cells",
        type=Path,
        metavar="FOLDER",
        help="take cells from FOLDER/BACKBONE/TASK/*.json, with one fit each, and fit nothing",
    )
    args = parser.parse_args()
    results = Results(args.out, KEY)
    if args.import_cells is not None:
        print(import_cells(results, args.import_cells, ("backbone", "task")))
        write_table(args.out)
        return
    torch.set_num_threads(args.threads)
    register_adapter(GradientPoLAR)
    backbone = load_backbone(args.backbone)
    pools = {task: pools_of(task, args.data_dir) for task in args.tasks}
    for seed, size, task in product(args.seeds, args.sizes, args.tasks):
        for name in args.methods:
            method = METHODS[name]
            cell = {"backbone": args.backbone, "task": task, "size": size, "seed": seed}
            is_done = results.get(**cell, method=name) is not None
            if is_done or (method.is_split and size < _FEWEST_TO_SPLIT):
                continue
            train = drawn(pools[task].train, size, seed)
            if method.is_split and min(Counter(train.labels).values()) < 2:
                print(task, size, name, "left out: a class of one row cannot be in both parts")
                continue
            for variant, row in fit(backbone, name, train, pools[task], seed).items():
                if results.get(**cell, method=variant) is not None:
                    continue
                results.append({**cell, "method": variant, **row})
                print(
                    task, size, variant, {key: round(row[key], 3) for key in _PRINTED}, flush=True
                )
        backbone.prefix_states.clear()
        write_table(args.out)
    results.sort()


def fit(
    backbone: Backbone, name: str, train: Examples, pools: Pools, seed: int
) -> dict[str, dict[str, float]]:
    """Return the scores of a fit by method, with and without its factor for the logits."""
    method = METHODS[name]
    clf = new_classifier(backbone, method.adapter, method.posterior, pools.num_tokens, seed)
    start = time.perf_counter()
    clf.fit(train, **method.options(len(train)))
    seconds = time.perf_counter() - start
    scale = clf.record.results.get("logit_scale") or {}
    factor, fits = scale.get("factor", 1.0), 1.0 + scale.get("num_fits", 0)
    fits += {"refit": 1, "folds": -1}.get(method.scheme, 0)
    rows = {name: {"factor": factor, "fits": fits, "fit_seconds": seconds, **scores(clf, pools)}}
    if method.scheme == "cv" and factor != 1.0:
        # Remove the factor from the same fit.
        scale_logits(clf.network, 1 / factor)
        rows[name.removesuffix(", cv")] = {"factor": 1.0, "fits": 1.0, **scores(clf, pools)}
    return rows


def scores(clf: BayesianClassifier, pools: Pools) -> dict[str, float]:
    """Return the scores on scoring and shifted rows, and the AUROC of each OOD set."""
    row = {}
    predictions = clf.predict(pools.score)
    row |= {key: score.value for key, score in evaluate(predictions, num_resamples=20).items()}
    for name, rows in pools.shifted.items():
        shifted = evaluate(clf.predict(rows), num_resamples=20)
        row |= {f"{name} {key}": shifted[key].value for key in _PRINTED}
    for name, rows in pools.ood.items():
        outside = clf.predict(rows, unknown_labels="ood")
        for score in (name for name in _OOD if name in predictions.uncertainty_names):
            inner, outer = predictions.uncertainty(score), outside.uncertainty(score)
            if inner is not None and outer is not None:
                row[f"{name} {score}"] = detection(sorted_by_uncertainty(inner, outer))[0]
    return {key: float(value) for key, value in row.items() if isinstance(value, int | float)}


if __name__ == "__main__":
    main()
