"""The object a user holds: fit, predict, calibrate, save, load."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bayeslora.adapters.layer_sampling.options import resolve_sampling
from bayeslora.adapters.registry import resolve_adapter
from bayeslora.adapters.spectrum import SiteSpectrum
from bayeslora.backbones.depth import Depth, check_depth
from bayeslora.backbones.embedded import directories
from bayeslora.backbones.load import Backbone, lasting_name, load_backbone
from bayeslora.backbones.module import wrap_module
from bayeslora.backbones.template import RAW, Template
from bayeslora.backbones.verbaliser import Verbaliser, check_verbaliser
from bayeslora.checkpoint import FOREIGN, LAYOUTS, ModelRecord, read_model, write_model
from bayeslora.engine import export as merged
from bayeslora.engine import load as foreign
from bayeslora.engine import load as restore
from bayeslora.engine.calibrate import calibrate, zero_shot
from bayeslora.engine.card import fit_words, learnt_from, model_card
from bayeslora.engine.data import (
    CheckedRows,
    check_hold_out,
    check_labels,
    check_pairs,
    labelled_for,
    open_for,
    read_for,
    read_labelled,
    read_rows,
    read_validation,
    say_fitted_to,
)
from bayeslora.engine.epochs import default_epochs
from bayeslora.engine.export import (
    EXPORTS,
    ExportKind,
    check_export,
    write_manifest,
)
from bayeslora.engine.model import FittedModel
from bayeslora.engine.peft import PeftExport, write_peft
from bayeslora.engine.pieces import Drawing, predict_to_file
from bayeslora.engine.progress import quiet_transformers
from bayeslora.engine.retaining.options import resolve_retaining
from bayeslora.engine.settings import Choices, TrainingData, TrainingSettings
from bayeslora.engine.side_by_side import SideBySide
from bayeslora.errors import InputError
from bayeslora.files import atomic_file, check_writable, real_path, refuse_existing, refuse_inputs
from bayeslora.layouts import refuse_foreign
from bayeslora.locks import writing_to
from bayeslora.metrics.robustness import Attack, Robustness
from bayeslora.metrics.scores import Scores
from bayeslora.option_checks import MAX_LENGTH, Count, Dtype, Format, Seed, checked
from bayeslora.output import atomic_directory
from bayeslora.plain_text import table_html
from bayeslora.posteriors.feature_scores import options as feature_options
from bayeslora.posteriors.registry import BEST, OWN_SOFTMAX, resolve_posterior
from bayeslora.predictions.parts import PredictionParts
from bayeslora.predictions.record import Predictions
from bayeslora.predictions.writing import file_kind
from bayeslora.processes import current, together
from bayeslora.tasks.columns import DataColumns
from bayeslora.tasks.examples import data_hash
from bayeslora.tasks.readers import data_columns, renamed
from bayeslora.tasks.union import is_union

logger = logging.getLogger(__name__)


class BayesianClassifier:
    """A text classifier with calibrated probabilities and uncertainties.

    Example:
        >>> clf = BayesianClassifier("smollm2-135m", adapter="polar", posterior="vbll")
        >>> clf.fit("train.jsonl", validation="valid.jsonl")          # doctest: +SKIP
        >>> clf.predict("test.jsonl").confidence                      # doctest: +SKIP
    """

    def __init__(
        self,
        backbone: str | Path | Backbone = "smollm2-135m",
        adapter: Any = "polar",
        posterior: Any = "vbll",
        *,
        seed: int = 0,
        max_length: int = MAX_LENGTH,
        depth: Depth | None = None,
        template: str | None = None,
        verbaliser: Verbaliser | None = None,
        format: Format | None = None,
        dtype: str = "auto",
        device: str | None = None,
        trust_remote_code: bool = False,
        progress: bool = True,
    ) -> None:
        r"""Choose what to fit; nothing is loaded yet.

        Args:
            backbone: A short name (`smollm2-135m`, `minilm`, `dinov2-s` for images), a directory,
                a hub id, or a loaded `Backbone`, which several classifiers may share.
            adapter: `LoRA(...)`, `PoLAR(...)`, a name, or `name:key=value,…`; `none` fits the last
                layer alone, in seconds.
            posterior: `VBLL(...)`, `Laplace(...)` and so on, a name, or `name:key=value,…`.
            seed: Decides the adapter's start, the order of the rows and every draw.
            max_length: Tokens kept of a text, its template included; at most the positions of the
                model. Images are scaled to the largest square of so many patches and class tokens,
                such as 56 × 56 pixels for 17 tokens with patches of 14.
            depth: Layers of the backbone to read: a number of them, or a share such as 0.8. The
                layers above are dropped, and adapters sit on the upper ones of what is left. None
                takes 0.8 of a decoder's layers, whose last ones are made for the next token (0.93
                without adapters), and all of an encoder's; 1.0 takes all. `"auto"` takes the depth
                at which a last layer on frozen features finds the most evidence in the training
                rows, in seconds.
            template: What is put around each text, such as ``"Review: {text}\nSentiment:"``;
                `{text_pair}` stands for the second text, and `{filled}` at the end for a question
                whose blank `_` its options fill. None takes ``"Text: {text}\nCategory:"`` for a
                decoder, so that its last token is where the class would be named, and nothing for
                an encoder; `"{text}"` is nothing.
            verbaliser: Words by class name, or `"names"`. The language model's own answer, by its
                logits for these words after the template, is the mean of the last layer's prior
                and its start, by a factor that the labels choose. `"none"` has a prior mean of
                zero. None takes the names for up to 256 training rows, where they are words, the
                head of the language model is at hand (a decoder's that is its table of embeddings)
                and the last layer is fitted at once, not step by step (`nuts`, `vbll` that refits
                its means, and every posterior without an adapter).
            format: How questions with options are read: `"options"` scores each option after the
                question by one weight vector that all share, beside the language model's own
                log-likelihood; `"letters"` lists the options in the prompt and asks for a letter,
                as published tables do. None takes `"options"`.
            dtype: Of the frozen weights: `auto`, `float32`, `bfloat16`.
            device: A torch device; None takes the GPU if there is one.
            trust_remote_code: Whether code from the backbone's repository may run.
            progress: Whether to show progress bars on stderr.

        Raises:
            InputError: A name or an option is not allowed.
        """
        self.adapter = resolve_adapter(adapter)
        self.posterior = resolve_posterior(posterior)
        if isinstance(backbone, Path):
            backbone = str(backbone)
        if not isinstance(backbone, str | Backbone):
            raise InputError(f"backbone must be a name, a path or a Backbone, got {backbone!r}")
        checked("dtype", dtype, Dtype)
        if depth is not None:
            check_depth(depth)
        self.depth = depth
        self.template = None if template is None else Template(template)
        if verbaliser is not None:
            check_verbaliser(verbaliser)
        self.verbaliser = dict(verbaliser) if isinstance(verbaliser, Mapping) else verbaliser
        self.format = None if format is None else checked("format", format, Format)
        self.seed = checked("seed", seed, Seed)
        self.max_length = checked("max_length", max_length, Count)
        self.progress = progress
        self._backbone = backbone
        self._dtype = dtype if isinstance(backbone, str) else backbone.dtype
        self._device = device
        self._trust = trust_remote_code
        self._fitted: FittedModel | None = None
        self._in_memory = False

    def __repr__(self) -> str:
        """Return one line: what it is made of, and what it was fitted to."""
        return f"<BayesianClassifier {self._made_of()}: {self._state()}>"

    def _repr_html_(self) -> str:
        """Return a small table; notebooks show it."""
        rows = [("made of", self._made_of()), ("state", self._state())]
        if self._fitted is not None:
            results = self.record.results
            rows.append(("classes", self._named_classes(most=20)))
            rows += [
                (key.replace("_", " "), f"{results[key]:.3f}")
                for key in ("validation_accuracy", "validation_nll")
                if isinstance(results.get(key), int | float)
            ]
        return table_html("BayesianClassifier", ("", ""), rows)

    def _made_of(self) -> str:
        name = self._backbone if isinstance(self._backbone, str) else self._backbone.name
        adapted = self._fitted is None or self._fitted.record.adapter is not None
        adapter = f"{self.adapter.name} + " if adapted else ""
        return f"{adapter}{self.posterior.name} on {name}"

    def _state(self) -> str:
        if self._fitted is None:
            return "not fitted"
        rows = self.record.num_train
        fitted = fit_words(self.record) if rows else "no posterior fitted yet"
        return f"{len(self.classes)} classes ({self._named_classes(most=5)}), {fitted}"

    def _named_classes(self, most: int) -> str:
        return ", ".join(self.classes[:most]) + (", …" if len(self.classes) > most else "")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in index order, known once fitted."""
        return tuple(self.record.classes)

    @property
    def record(self) -> ModelRecord:
        """Configuration and results of the fit, as stored in `bayeslora.json`."""
        return self._known().record

    @property
    def validation_scores(self) -> tuple[Scores, Scores] | None:
        """Scores of the validation rows before and after the last `calibrate`; None without."""
        return self._known().validation_scores

    @property
    def side_by_side(self) -> SideBySide | None:
        """The posterior beside others after the last `calibrate`; None where none were compared."""
        return self._known().side_by_side

    def fit(
        self,
        train: Any,
        validation: Any = None,
        *,
        epochs: int | None = None,
        batch_size: int = TrainingSettings.batch_size,
        head_lr: float | None = None,
        patience: int = TrainingSettings.patience,
        cv: int | Literal["auto"] | None = None,
        keep_folds: bool = False,
        hold_out: float = 0.0,
        refit: bool = False,
        text_column: str = "text",
        label_column: str = "label",
        pair_column: str | None = None,
        image_column: str | None = None,
        feature_scores: str | Sequence[str] | None = None,
        layer_sampling: Any = None,
        quality_retaining: Any = None,
        across_tasks: bool = False,
        out: str | Path | None = None,
        overwrite: bool = False,
    ) -> BayesianClassifier:
        """Fine-tune the adapter and fit the posterior.

        Processes that `torchrun` or `accelerate launch` started do it together, to the result of
        one; see the guide to scaling.

        Args:
            train: Labelled data: a file, a `datasets.Dataset`, an iterable of mappings, a pair
                (texts, labels), or `Examples`. A mapping from names to such data is several tasks
                at once: their classes are `name: class`, and a row is classified among those of
                its task.
            validation: Held-out labelled data, of several tasks a mapping too. With it the epoch,
                and what the posterior chooses, are chosen by validation NLL; without it they are
                fixed beforehand.
            epochs: Passes over the data, at most; None takes 15 where validation data choose the
                epoch (5 with `SWAG`, whose epoch they do not), and for `PoLAR` without; else 5. The
                adapter's default learning rate goes with it.
            batch_size: Rows per step.
            head_lr: Learning rate of a point estimate's last layer; None takes 0.02. The adapter
                and `VBLL` have an option of their own.
            patience: Epochs without a better validation NLL before training stops.
            cv: Parts of the training rows, at least 2, each held out of one more fit: their answers
                choose one factor for all logits, which the fit to all rows takes. `"auto"` takes as
                many of five parts as bring 128 rows, 0 none. None takes `"auto"` for a `VBLL`
                beside an adapter without validation data, else 0.
            keep_folds: Whether the networks that had a part of `cv` held out are kept and predict
                together, a pass each, in place of one fit to all rows; `"auto"` is five parts then.
            hold_out: Share of the training rows that serve as validation data, in place of
                `validation` and `cv`; classes in proportion.
            refit: Whether to fit to all rows afterwards, with the epoch, prior and scale that the
                rows of `hold_out` chose.
            text_column: The column of the texts.
            label_column: The column of the labels.
            pair_column: The column of a second text.
            image_column: The column of paths of images, relative to the file, for a vision model;
                data with a column `image` and no `text`, directories of images and arrays of them
                need not name it.
            feature_scores: Out-of-distribution scores to fit beside the posterior, which
                predictions then carry: `mahalanobis`, `relative_mahalanobis`, `knn`,
                `unfamiliarity`. None takes the last, which brings the first, where one pass gives
                the features and rows of a class differ; `none` takes none.
            layer_sampling: `LayerSampling(...)`, or its options as a mapping or as text such as
                `num_active=2,interval=5`: only some layers of the adapter train at a time. None
                lets all of them train. `LISA` is an adapter and has these options itself.
            quality_retaining: `QualityRetaining(...)`, its options as a mapping or as text such as
                `momentum=0.8`, or `True` for its defaults: a loss that holds rows near recent
                logits of their class, the more the lower the loss of their task is. None takes
                none.
            across_tasks: Whether rows of several tasks are classified among the classes of all, so
                that a row to predict need not name its task; otherwise among those of its own.
            out: A directory to save the model in. A fit that was interrupted goes on from its last
                checkpoint there when it is called again in the same way.
            overwrite: Whether `out` may be replaced.

        Raises:
            InputError: The data or an option is not allowed, or `out` holds what is read; nothing
                has been written then.
        """
        if out is not None:
            given = (*_parts(train), *_parts(validation))
            files = [one for one in given if isinstance(one, str | Path)]
            refuse_inputs(out, *files, *self.adapter.files, *directories(self._backbone))
            current().first(partial(check_writable, out))
        # Here, since a prediction would spend a second on importing transformers' training loop.
        from bayeslora.engine.fit import fit_classifier
        from bayeslora.engine.fit_checks import refuse_training_options

        scores = feature_options.feature_scores(feature_scores)
        if not self.adapter.trains or self.adapter.episodes is not None:
            refuse_training_options(
                self.adapter,
                epochs=epochs,
                batch_size=batch_size,
                head_lr=head_lr,
                patience=patience,
                layer_sampling=layer_sampling,
                quality_retaining=quality_retaining or None,
            )
        columns = data_columns(text_column, label_column, pair_column, image_column)
        read = partial(TrainingData.read, train, validation, columns, across_tasks=across_tasks)
        data = current().first_then_all(read)
        validated = data.validation is not None or bool(hold_out)
        if epochs is None:
            epochs = default_epochs(self.adapter, self.posterior, validated=validated)
        settings = TrainingSettings(
            epochs,
            batch_size,
            head_lr=self._head_lr(head_lr),
            patience=patience,
            seed=self.seed,
            layer_sampling=resolve_sampling(layer_sampling),
            quality_retaining=resolve_retaining(quality_retaining),
            cv=self._cv(cv, validated=validated),
            keep_folds=keep_folds,
            hold_out=hold_out,
            refit=refit,
        )
        choices = self._choices(scores)
        with (
            together() as world,
            world.first_holds(lambda: nullcontext() if out is None else writing_to(out)),
            quiet_transformers(),
        ):
            self._fitted = fit_classifier(
                choices, data, settings, self._load_backbone, out=out, overwrite=overwrite
            )
            if out is not None:
                world.first(partial(self._save_fit, out))
        return self

    def _save_fit(self, out: str | Path) -> None:
        """Save a finished fit to `out`, or, if that fails, beside it, so that no work is lost.

        Raises:
            InputError: Somebody has put another file at `out` meanwhile; where the model is now has
                been logged.
            OSError: It cannot be written there; the same.
        """
        try:
            self.save_pretrained(out, overwrite=True)
        except (InputError, OSError):
            target = real_path(out)
            beside = target.with_name(f"{target.name}-rescued")
            with suppress(InputError, OSError):
                self.save_pretrained(beside)
                logger.warning("the finished model was saved to %s in the place of %s", beside, out)
            raise

    def _cv(self, cv: int | Literal["auto"] | None, *, validated: bool) -> int | Literal["auto"]:
        if cv is not None:
            return cv
        scales = self.posterior.scales_logits and not validated
        by_rows = self.adapter.trains and self.adapter.episodes is None
        return "auto" if scales and by_rows else 0

    def _head_lr(self, head_lr: float | None) -> float:
        if head_lr is None:
            return TrainingSettings.head_lr
        posterior = self.posterior
        if posterior.head_training().lr is not None:
            raise InputError(
                f"head_lr has no effect on {posterior.name!r}, whose rate is an option of its own: "
                f"{type(posterior).__name__}(head_lr={head_lr:g}), "
                f"--posterior {posterior.name}:head_lr={head_lr:g}",
                code="no-effect",
            )
        return head_lr

    def predict(
        self,
        data: Any,
        *,
        num_samples: int | None = None,
        link: str | None = None,
        unknown_labels: Literal["error", "ood"] = "error",
        seed: int = 0,
        keep: str | Sequence[str] = (),
    ) -> Predictions:
        """Return class probabilities and uncertainties of each row.

        Args:
            data: As for `fit`, where labels are optional and several tasks are named, or rows have
                a column `task`; or a text, or a list or another iterable
                of texts, or of paths of images where the backbone reads these. A string is the path
                of a file where there is one of that name, where it ends like a data file (`.jsonl`,
                `.csv`) and where it is one word with a slash or an ending such as `.txt`; any other
                string is a text to classify. `[text]` is always a text.
            num_samples: Draws from the posterior; None takes the posterior's own number, 0 the
                mean weights.
            link: `mc`, `probit` or `bridge`; None takes the one that the posterior was tuned with.
                Refused where the posterior has no such choice.
            unknown_labels: What to do with a label that is not a class: `error`, or keep the row
                unlabelled as out of distribution (`ood`), with its label in a further column,
                `unknown_label`.
            seed: Of the draws.
            keep: A column of the data, or several, that the predictions carry as further
                `columns`, such as the source of a row, for scores by group, or its text.

        Raises:
            InputError: The data or an option is not allowed, or the classifier is not fitted.
        """
        fitted = self._calibrated()
        rows = read_for(fitted.record, data, fitted.columns, keep)
        say_fitted_to(fitted.record, data_hash(rows), rows.source)
        return fitted.predict(
            rows, num_samples=num_samples, link=link, unknown=unknown_labels, seed=seed
        )

    def predict_proba(
        self,
        data: Any,
        *,
        num_samples: int | None = None,
        link: str | None = None,
        seed: int = 0,
    ) -> NDArray[np.float64]:
        """Return class probabilities [N, C], columns in the order of `classes`.

        Args:
            data: As for `predict`; labels play no part.
            num_samples: As for `predict`, and so are the others.
            link: From logits to probabilities.
            seed: Of the draws.

        Raises:
            InputError: As `predict`.
        """
        return self.predict(
            data, num_samples=num_samples, link=link, unknown_labels="ood", seed=seed
        ).probs

    def predict_to_file(
        self,
        data: Any,
        out: str | Path,
        *,
        num_samples: int | None = None,
        link: str | None = None,
        unknown_labels: Literal["error", "ood"] = "error",
        seed: int = 0,
        keep: str | Sequence[str] = (),
        overwrite: bool = False,
    ) -> None:
        """Write what `predict` returns to a file, in memory that does not grow with the rows.

        A run that was killed goes on where it was when it is called again in the same way: finished
        pieces wait in a hidden directory beside `out`, and the file is the same in every byte.

        Args:
            data: As for `predict`.
            out: A `.parquet`, `.csv` or `.jsonl` file.
            num_samples: As for `predict`, and so are `link`, `unknown_labels`, `seed` and `keep`.
            link: From logits to probabilities.
            unknown_labels: What to do with a label that is not a class.
            seed: Of the draws.
            keep: Further columns.
            overwrite: Whether `out`, and pieces of other interrupted predictions, may be replaced.

        Raises:
            InputError: The data or an option is not allowed, or `out` may not be written.
        """
        file_kind(out)
        world = current()
        world.first(PredictionParts(out).sweep)
        world.first(partial(refuse_existing, out, overwrite=overwrite))
        refuse_inputs(out, *(one for one in _parts(data) if isinstance(one, str | Path)))
        fitted = self._calibrated()
        drawing = Drawing.of(
            fitted.posterior, num_samples=num_samples, link=link, seed=seed, unknown=unknown_labels
        )
        rows = data
        if not isinstance(data, CheckedRows):
            stream = open_for(fitted.record, data, fitted.columns, keep)
            rows = CheckedRows.of(fitted.record, stream, unknown_labels)
        say_fitted_to(fitted.record, rows.data_hash, rows.stream.source)
        with world.first_holds(partial(writing_to, out)):
            predict_to_file(fitted, rows, drawing, out, overwrite=overwrite)

    def calibrate(
        self,
        train: Any,
        validation: Any = None,
        *,
        posterior: Any = None,
        hold_out: float = 0.0,
        text_column: str | None = None,
        label_column: str | None = None,
        pair_column: str | None = None,
        image_column: str | None = None,
        feature_scores: str | Sequence[str] | None = None,
    ) -> BayesianClassifier:
        """Fit the posterior to labelled data and leave the network's weights as they are.

        The posterior describes what these rows say of the last layer, so no training data is
        needed. Rows that the network was trained on hide its mistakes, and a prior or temperature
        chosen on them is overconfident. Where there is one held-out sample, `hold_out=0.5`
        lets `laplace` choose its prior. `record.results["calibration"]` has the number
        of rows and the accuracy on them; a warning is given where 59 or more are all right.

        Args:
            train: Labelled data, best of rows that the network was not trained on; of several tasks
                as for `predict`.
            validation: Held-out labelled data for what the posterior chooses by them (a prior, a
                temperature, the means of `VBLL`, which are refit without them); scored before and
                after in `validation_scores` and on the model card.
            posterior: Another posterior of the last layer, or `laplace_lora` or `tfb` where there
                are adapters; it starts from the mean of the present one. None keeps that. `best`
                takes the one of lowest cross-validated NLL among `mle`, `temperature`, `laplace`
                and `vbll`. What was compared is in `side_by_side` and on the model card.
            hold_out: Share of the rows of `train` that serve as `validation`; classes in
                proportion, chosen by the classifier's seed.
            text_column: The column of the texts; None keeps the known one.
            label_column: The column of the labels; None keeps the known one.
            pair_column: The column of a second text; None keeps the known one.
            image_column: The column of paths of images; None keeps the known one.
            feature_scores: As for `fit`, but None fits those that the classifier has to the new
                rows; where it has none, as `fit` does by default.

        Raises:
            InputError: The data or a score is not allowed, or the posterior cannot be fitted to a
                finished network.
        """
        fitted = self._known()
        # After `zero_shot` what was chosen has not been fitted yet.
        usual = self.posterior if not fitted.record.num_train else fitted.posterior
        config = None if posterior == BEST else usual
        if config is not None and posterior is not None:
            config = resolve_posterior(posterior)
        fitted.check_takes(config or OWN_SOFTMAX)
        scores = feature_options.feature_scores(feature_scores)
        if scores is None and (config is None or feature_options.has_one_feature(config)):
            scores = tuple(fitted.record.feature_scores) or None
        if config is not None:
            feature_options.check_feature_scores(scores, config)
        check_hold_out(hold_out, validated=validation is not None)
        check_pairs(fitted.record, pair_column)
        old = fitted.columns
        columns = renamed(old, text_column, label_column, pair_column, image_column)
        rows = read_labelled(labelled_for(fitted.record, train, columns), columns)
        # Nothing of a point estimate is fitted to them, nor of a temperature with rows of its own.
        has_validation = validation is not None or bool(hold_out)
        if learnt_from(config, has_validation=has_validation) == "train":
            moves = config is not None and config.moves_mean
            check_labels(fitted.record, rows, moves=moves)
        held = None
        if validation is not None:
            held = read_validation(labelled_for(fitted.record, validation, columns), columns, rows)
        self._fitted = calibrate(
            fitted, config, rows, held, columns=columns, feature_scores=scores, hold_out=hold_out
        )
        self.posterior = self._fitted.posterior
        return self

    def robustness(self, data: Any, attack: Any = None) -> Robustness:
        """Return accuracy, NLL and ECE of labelled rows by how far their inputs are perturbed.

        For texts the embeddings of tokens move, and the score is robustness in the space of
        embeddings: no text need have them. For images the pixels move.

        Args:
            data: Labelled rows, as for `predict`.
            attack: `Attack(...)`, its options as a mapping or as text such as
                `eps=[0.05,0.1],steps=10`; None takes the usual radii.

        Raises:
            InputError: The data or an option is not allowed, or this is a classifier of another
                library.
        """
        from bayeslora.engine.attack import robustness

        fitted = self._calibrated()
        rows = read_for(fitted.record, data, fitted.columns)
        return robustness(fitted, rows, Attack.of(attack))

    def adapt(
        self,
        support: Any,
        *,
        posterior: Any = None,
        adapter: Any = None,
        text_column: str | None = None,
        label_column: str | None = None,
        image_column: str | None = None,
    ) -> BayesianClassifier:
        """Return a classifier of other classes, of which there are a few labelled rows.

        The network's weights stay as they are, but for a pool of adapters (`amt`), which is merged
        anew for these classes; the last layer is fitted to the rows alone. This classifier is left
        as it is.

        Args:
            support: Labelled rows of the new classes.
            posterior: Of the last layer; None takes the present one.
            adapter: Options of the pool's merge, as `AMT(merge="published")`; None keeps them.
            text_column: The column of the texts; None keeps the known one.
            label_column: The column of the labels; None keeps the known one.
            image_column: The column of paths of images; None keeps the known one.

        Raises:
            InputError: The rows are not allowed, the posterior cannot be fitted to a finished
                network, or this classifier is from `from_transformers` or `from_module`.
        """
        # Here, as `fit` imports its own: a prediction needs none of it.
        from bayeslora.engine.new_classes import for_new_classes

        fitted = self._known()
        old = fitted.columns
        columns = renamed(old, text_column, label_column, None, image_column)
        rows = read_labelled(support, columns)
        config = fitted.posterior if posterior is None else resolve_posterior(posterior)
        chosen = None if adapter is None else resolve_adapter(adapter)
        adapted = for_new_classes(fitted, config, rows, adapter=chosen, columns=columns)
        return self._around(
            adapted, self._backbone, device=self._device, trust_remote_code=self._trust
        )

    def spectrum(self) -> list[list[SiteSpectrum]]:
        """Return the change of each adapted weight: one list per member, most models having one.

        Each entry has the layer's `name`, the `singular_values` of the change, its `norm`,
        `relative_norm` and `stable_rank`, and the factors' `drift` from orthogonality.

        Raises:
            InputError: Nothing is fitted, or the network has no adapters of ours.
        """
        return self._known().spectra()

    def save_pretrained(self, directory: str | Path, *, overwrite: bool = False) -> None:
        """Write the fitted classifier to a directory, whole or not at all.

        Raises:
            InputError: The directory exists and `overwrite` is false, it is no model, another
                process is fitting into it, nothing is fitted, or the network is a classifier in
                memory that nothing could be loaded from later (one of `from_module` is given again
                when loading).
        """
        files = self._calibrated().files()
        refuse_foreign(directory, *LAYOUTS)
        if self._in_memory and files.record.backbone["kind"] == FOREIGN:
            foreign.check_place(files.record, trust_remote_code=self._trust)
        # A model without its backbone is lost.
        refuse_inputs(directory, *directories(files.record.backbone["name"]))
        write_model(
            directory,
            files,
            tokenizer=self._known().network.encoder.backbone.tokenizer,
            card=model_card(files.record, files.fingerprint),
            overwrite=overwrite,
        )

    def export_peft(
        self,
        directory: str | Path,
        *,
        prefix: str = "",
        head: bool = False,
        member: int | None = None,
        overwrite: bool = False,
    ) -> PeftExport:
        """Write the adapter as a LoRA checkpoint that PEFT loads, with a README that says how.

        Args:
            directory: Where the checkpoint goes.
            prefix: What comes before the layers' names in the model that PEFT will wrap: empty for
                `AutoModel`, `model.` for `AutoModelForCausalLM` of most decoders.
            head: Whether the mean last layer goes with it, for
                `AutoModelForSequenceClassification` of decoders, whose prefix is then taken.
            member: Number, from 1, of the network to write, where an ensemble has several.
            overwrite: Whether what is there may be replaced.

        Returns:
            What loads it, and what else has to be known.

        Raises:
            InputError: See `check_export` of the target; or there is no adapter, no such member, or
                its change of the weights depends on the input (posterior `clora`), or whole layers
                were trained (adapter `lisa`), or no such classifier computes what this one does.
        """
        fitted = self._known()
        if fitted.network.full is not None:
            raise InputError(
                f"{fitted.name} changed whole weights of the backbone, which is no LoRA that PEFT "
                "could load; export_merged and export_safetensors (--format merged, safetensors) "
                "write the changed backbone"
            )
        if not fitted.network.sites:
            raise InputError(
                f"{fitted.name} has no adapter to export; export_merged (--format merged) writes "
                "its backbone and last layer"
            )
        self._check_export(directory, "peft", overwrite=overwrite)
        with (
            fitted.one_member(member) as one,
            atomic_directory(directory, EXPORTS["peft"], overwrite=overwrite) as aside,
        ):
            told = write_peft(one, aside, prefix=prefix, head=head)
            write_manifest(aside, "peft")
        return told

    def export_merged(
        self, directory: str | Path, *, member: int | None = None, overwrite: bool = False
    ) -> None:
        """Write the mean network, its adapter merged, for `AutoModelForSequenceClassification`.

        Uncertainty is not exported: the logits are those of `predict(num_samples=0)`.

        Args:
            directory: Where the model and its tokenizer go.
            member: Number, from 1, of the network to write, where an ensemble has several.
            overwrite: Whether what is there may be replaced.

        Raises:
            InputError: The directory exists and `overwrite` is false, it is no such model or the
                backbone itself, or there is no adapter, or no such member; or no sequence
                classifier of transformers computes what this one does, as of all encoders.
        """
        with self._known().one_member(member) as one:
            merged.check_mergeable(one)
            self._check_export(directory, "merged", overwrite=overwrite)
            with (
                atomic_directory(directory, EXPORTS["merged"], overwrite=overwrite) as aside,
                quiet_transformers(),
            ):
                merged.write_merged(one, aside)
                write_manifest(aside, "merged")

    def export_safetensors(
        self, path: str | Path, *, member: int | None = None, overwrite: bool = False
    ) -> None:
        """Write the tensors of the mean network, its adapter merged, to one file for serving.

        They are named `backbone.…`, as in the plain backbone, and `head.weight` [C, d]; the
        metadata `bayeslora` is JSON with the classes, how states are pooled to a feature, the
        longest text and the backbone's configuration.

        Args:
            path: The file.
            member: Number, from 1, of the network to write, where an ensemble has several.
            overwrite: Whether it may be replaced.

        Raises:
            InputError: It exists and `overwrite` is false, or there is no adapter, or no such
                member.
        """
        self._check_export(path, "safetensors", overwrite=overwrite)
        with self._known().one_member(member) as one, atomic_file(path) as aside:
            merged.write_tensors(one, aside)

    def _check_export(self, path: str | Path, kind: ExportKind, *, overwrite: bool) -> None:
        backbone = self._known().network.encoder.backbone
        check_export(path, kind, overwrite=overwrite, inputs=directories(backbone.name))

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        *,
        backbone: str | Path | Backbone | None = None,
        module: nn.Module | None = None,
        encode: Callable[..., Any] | None = None,
        device: str | None = None,
        trust_remote_code: bool = False,
        progress: bool = True,
    ) -> BayesianClassifier:
        """Read a classifier that `save_pretrained` wrote.

        Args:
            directory: The model directory.
            backbone: Where the backbone is now, if it has moved.
            module: The module of a classifier that `from_module` made, with the same weights.
            encode: What encodes its texts.
            device: A torch device; None takes the GPU if there is one.
            trust_remote_code: Whether code from the backbone's repository may run.
            progress: Whether to show progress bars.

        Raises:
            InputError: The directory is missing, foreign, damaged, newer, or made for another
                backbone; the message says which.
        """
        files = read_model(directory)
        source = files.record.backbone["name"] if backbone is None else backbone
        if isinstance(source, Path):
            source = str(source)
        with quiet_transformers():
            network, members = restore.restore_network(
                files,
                source,
                {
                    "dtype": files.record.backbone["dtype"],
                    "device": device,
                    "trust_remote_code": trust_remote_code,
                },
                module,
                encode,
            )
        files.warn_unverified()
        record = files.record
        if isinstance(source, str) and module is None:
            # Saved again, the model is to name the place where its backbone is now.
            record = replace(record, backbone={**record.backbone, "name": lasting_name(source)})
        return cls._around(
            FittedModel(record, network, members, progress),
            source,
            device=device,
            trust_remote_code=trust_remote_code,
        )

    @classmethod
    def from_transformers(
        cls,
        model: str | Path | nn.Module,
        posterior: Any = "laplace",
        *,
        tokenizer: Any = None,
        layer: str | None = None,
        classes: Sequence[str] | None = None,
        max_length: int = MAX_LENGTH,
        device: str | None = None,
        trust_remote_code: bool = False,
        progress: bool = True,
    ) -> BayesianClassifier:
        """Load a fine-tuned sequence classifier from transformers; `calibrate` fits its posterior.

        Args:
            model: A directory, hub id or PEFT checkpoint, or the model itself.
            posterior: `laplace_lora` or `tfb`, over the adapters of a PEFT checkpoint; or of the
                last layer: `laplace`, whose mean is the classifier itself; `vbll` and
                `nuts`, which move it; `gvbll`, Gaussians of the features in its place;
                `temperature`; or `mle` or `map`, both the classifier's own softmax, to compare
                with. Others need training and are refused.
            tokenizer: With a model in memory whose tokenizer cannot be found.
            layer: Dotted name of the final linear layer, where it cannot be found; the one found is
                `record.backbone["layer"]`.
            classes: Names of the classes in index order; None takes those of the configuration.
                Labels of the data are these names, or indices where no name is a number.
            max_length: Tokens kept of a text, at most the positions of the model.
            device: A torch device; None takes the GPU if there is one.
            trust_remote_code: Whether code from the model's repository may run.
            progress: Whether to show progress bars.

        Raises:
            InputError: There is no such model, weights are missing from it, its final layer has no
                features, or the posterior is neither one of the last layer nor over adapters that
                are there.
        """
        if isinstance(model, Path):
            model = str(model)
        checked("max_length", max_length, Count)
        with quiet_transformers():
            network, record = foreign.foreign_network(
                model,
                resolve_posterior(posterior),
                tokenizer=tokenizer,
                layer=layer,
                classes=classes,
                max_length=max_length,
                device=device,
                trust_remote_code=trust_remote_code,
            )
        clf = cls._around(
            FittedModel(record, network, [network.trained_state()], progress),
            record.backbone["name"],
            device=device,
            trust_remote_code=trust_remote_code,
        )
        clf._in_memory = isinstance(model, nn.Module)
        return clf

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        posterior: Any = "laplace",
        *,
        encode: Callable[..., Any],
        classes: Sequence[str],
        layer: str | None = None,
        device: str | None = None,
        progress: bool = True,
    ) -> BayesianClassifier:
        """Load any finished torch module; `calibrate` fits its posterior.

        A saved classifier holds the posterior and not the module:
        `from_pretrained(directory, module=module, encode=encode)` reads it, and checks that the
        weights are the same.

        Args:
            module: From a batch to logits [B, C], returned alone or as `.logits`: the output of a
                final `nn.Linear`, whose input [B, d] is the feature. It is frozen and put in
                evaluation mode.
            posterior: As for `from_transformers`.
            encode: From a list of texts to a batch: a tensor, a mapping (passed by name) or a tuple
                (by place), whose tensors are moved to the module's device. Where the data has
                second texts it is called with two lists. Texts come in any order, 64 at most.
            classes: Names of the C classes in index order.
            layer: Dotted name of the final layer; None takes the only one with C outputs.
            device: A torch device; None leaves the module where it is.
            progress: Whether to show progress bars.

        Raises:
            InputError: An argument is not allowed, or the final layer cannot be told. `calibrate`
                raises it where the layer does not have one input a row, or the module's logits are
                not its output.
        """
        config = resolve_posterior(posterior)
        classifier = wrap_module(module, encode, classes, layer=layer, device=device)
        network, record = foreign.module_network(classifier, config)
        return cls._around(
            FittedModel(record, network, [network.trained_state()], progress),
            record.backbone["name"],
            device=device,
        )

    def zero_shot(
        self,
        classes: Sequence[str] | None = None,
        texts: Any = None,
        *,
        text_column: str = "text",
        pair_column: str | None = None,
        out: str | Path | None = None,
        overwrite: bool = False,
    ) -> BayesianClassifier:
        """Return a classifier that needs no labels: the language model answers.

        Its logits for the words of the classes after the template, as `mle` gives them; `calibrate`
        then fits a posterior to labelled rows (`vbll` moves the answer, `laplace` and `temperature`
        say how sure it is). The adapter and the posterior that were chosen have no effect. All
        layers are read unless a depth was asked for.

        Args:
            classes: C names in index order; `verbaliser` may have other words for them. None for
                questions with options, which `texts` then are.
            texts: Eight or more unlabelled texts like those to come, as for `predict`; the mean
                answer to them is taken off, since a language model prefers some words whatever the
                text. None takes nothing off.
            text_column: The column of the texts.
            pair_column: The column of a second text.
            out: A directory to save the model in.
            overwrite: Whether `out` may be replaced.

        Raises:
            InputError: The backbone is an encoder, or the classes, words or texts are not allowed.
        """
        if out is not None:
            files = [texts] if isinstance(texts, str | Path) else []
            refuse_inputs(out, *files, *directories(self._backbone))
            refuse_existing(out, overwrite=overwrite)
            check_writable(out)
        columns = DataColumns(text_column, pair=pair_column)
        rows = None if texts is None else read_rows(texts, columns)
        if rows is not None and rows.columns is not None:
            columns = DataColumns.of(rows.columns)
        with quiet_transformers():
            self._fitted = zero_shot(
                self._choices(()), classes, self._load_backbone(), rows, columns
            )
        if out is not None:
            self.save_pretrained(out, overwrite=overwrite)
        return self

    @classmethod
    def _around(
        cls,
        fitted: FittedModel,
        backbone: str | Backbone,
        *,
        device: str | None,
        trust_remote_code: bool = False,
    ) -> BayesianClassifier:
        record = fitted.record
        clf = cls(
            backbone,
            record.adapter or "polar",
            record.posterior,
            seed=record.seed,
            max_length=record.max_length,
            depth=record.backbone.get("depth") or 1.0,
            template=record.backbone.get("template") or RAW,
            verbaliser=record.backbone.get("verbaliser"),
            format=record.backbone.get("format"),
            dtype=record.backbone["dtype"],
            device=device,
            trust_remote_code=trust_remote_code,
            progress=fitted.progress,
        )
        clf._fitted = fitted
        return clf

    def _known(self) -> FittedModel:
        if self._fitted is None:
            raise InputError(
                "this classifier is not fitted; call fit, from_pretrained or from_transformers",
                code="not-fitted",
            )
        return self._fitted

    def _calibrated(self) -> FittedModel:
        fitted = self._known()
        if not fitted.record.num_train and fitted.posterior.learns_from != "nothing":
            raise InputError(
                f"posterior {fitted.posterior.name!r} is not fitted to this classifier yet; call "
                "calibrate with rows that it was not trained on",
                code="not-fitted",
            )
        return fitted

    def _load_backbone(self) -> Backbone:
        if isinstance(self._backbone, str):
            with quiet_transformers():
                self._backbone = load_backbone(
                    self._backbone,
                    dtype=self._dtype,
                    device=self._device,
                    trust_remote_code=self._trust,
                )
        return self._backbone

    def _choices(self, feature_scores: tuple[str, ...] | None) -> Choices:
        name = self._backbone if isinstance(self._backbone, str) else self._backbone.name
        return Choices(
            lasting_name(name),
            self._dtype,
            self.adapter,
            self.posterior,
            self.seed,
            self.max_length,
            self.progress,
            feature_scores,
            self.depth,
            self.template,
            self.verbaliser,
            format=self.format,
        )


def _parts(data: Any) -> list[Any]:
    """Return the data of each task, where these are of several."""
    return [*data.values()] if is_union(data) else [data]
