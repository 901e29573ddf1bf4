"""The main class of the Python API: fit, predict, calibrate, save and load."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.low_rank import spectrum
from bayeslora.adapters.registry import DEFAULT_ADAPTER
from bayeslora.adapters.site import SiteSpectrum
from bayeslora.backbones.embedded import AUTO, directories
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.backbones.reading import Verbaliser
from bayeslora.backbones.sequence import wrap_module
from bayeslora.backbones.template import Template
from bayeslora.checkpoint import (
    FOREIGN,
    LAYOUTS,
    ModelFiles,
    ModelRecord,
    local_directory,
    read_model,
    upload,
    write_model,
)
from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import data_hash, is_union
from bayeslora.data.read import are_labels, read
from bayeslora.engine import load
from bayeslora.engine.card import fit_words, model_card
from bayeslora.engine.data import TrainingData, columns_of, read_for, read_labelled, stream_for
from bayeslora.engine.network import Network, say_fitted_to
from bayeslora.engine.pieces import CheckedRows, Drawing, DrawOptions, predict_rows, predict_to_file
from bayeslora.engine.plan import Plan
from bayeslora.engine.progress import quiet_transformers
from bayeslora.engine.training_options import (
    CHOSEN,
    ColumnNames,
    FitOptions,
    TrainingSettings,
    columns_in,
)
from bayeslora.engine.zero_shot import zero_shot
from bayeslora.errors import InputError
from bayeslora.io import check_writable, lock, refuse_existing, refuse_foreign, refuse_inputs
from bayeslora.metrics.scores import Scores
from bayeslora.option_checks import MAX_LENGTH, Count, Format, checked, with_meanings
from bayeslora.plain_text import table_html
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.registry import BEST, DEFAULT_POSTERIOR, own_softmax, resolve_posterior
from bayeslora.predictions.files import file_kind
from bayeslora.predictions.parts import PredictionParts
from bayeslora.predictions.record import Predictions
from bayeslora.processes import current, together

if TYPE_CHECKING:
    from bayeslora.metrics.compare import Comparison


class Place(TypedDict, total=False):
    """Where a backbone is loaded.

    Attributes:
        device: A torch device; by default the GPU if there is one.
        trust_remote_code: Whether to run code from the backbone's repository; by default not.
    """

    device: str | None
    trust_remote_code: bool


class Loading(Place, total=False):
    """How a backbone is loaded; further keys as for `Place`.

    Attributes:
        dtype: Data type of the frozen weights: `auto` (default), `float32`, `bfloat16`.
    """

    dtype: str


def check_keywords(function: str, options: Mapping[str, Any], typed: Any) -> None:
    """Raise TypeError for a keyword that a typed dictionary does not have."""
    for name in options:
        if name not in typed.__annotations__:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")


class BayesianClassifier:
    """A classifier of texts or images with calibrated probabilities and uncertainties.

    Example:
        >>> clf = BayesianClassifier("minilm", adapter="polar", posterior="vbll")
        >>> clf.fit("train.jsonl", validation="valid.jsonl")          # doctest: +SKIP
        >>> clf.predict("test.jsonl").confidence                      # doctest: +SKIP

    Attributes:
        plan: What was chosen.
        validation_scores: Scores of the validation rows before and after the last `calibrate`; None
            if there are none.
        side_by_side: Comparison of posteriors by the last `calibrate` with `best`; None without it.
    """

    def __init__(
        self,
        backbone: str | Path | Backbone | None = None,
        adapter: Any = DEFAULT_ADAPTER,
        posterior: Any = DEFAULT_POSTERIOR,
        *,
        seed: int = 0,
        max_length: int = MAX_LENGTH,
        depth: float | None = None,
        template: str | None = None,
        verbaliser: Verbaliser | None = None,
        format: Format | None = None,
        progress: bool = True,
        **loading: Unpack[Loading],
    ) -> None:
        r"""Configure a classifier; nothing is loaded yet.

        Args:
            backbone: A short name (`minilm`, `smollm2-135m`, `dinov2-s`), a directory, a hub id, or
                a loaded `Backbone`, which several classifiers may share. `"auto"` takes the
                installed one of these names on whose frozen features a last layer has the lowest
                NLL on held-out rows, in seconds. None takes `minilm` for texts, `smollm2-135m` for
                questions, a verbaliser and `zero_shot`, and `dinov2-s` for images.
            adapter: `LoRA(...)`, `PoLAR(...)`, a name, or `name:key=value,…`; `none` fits only the
                last layer, in seconds.
            posterior: `VBLL(...)`, `Laplace(...)` and so on, a name, or `name:key=value,…`.
            seed: Seed of the adapter's initialisation, the row order and all draws.
            max_length: Maximum tokens per text, template included, 128 by default; no more than the
                model's number of positions are read. Images are scaled to the largest square with
                this many patches and class tokens, such as 56 × 56 pixels for 17 tokens with
                patches of 14.
            depth: Number of backbone layers to use, or a share such as 0.8. The layers above are
                dropped, and adapters sit on the upper remaining layers. None uses 0.8 of a
                decoder's layers (0.93 without adapters), since its last layers specialise in
                predicting the next token, and all of an encoder's; 1.0 uses all.
            template: Prompt around each text, such as ``"Review: {text}\nSentiment:"``;
                `{text_pair}` is the second text, and `{filled}` at the end is a question whose
                blank `_` is filled with each option. None uses ``"Text: {text}\nCategory:"`` for a
                decoder, so that the class name would follow its last token, and no template for an
                encoder; `"{text}"` means no template.
            verbaliser: Words by class name, or `"names"`. The language model's logits for these
                words after the template, times a factor chosen by the labels, define the prior
                mean of the last layer and its initial value. `"none"` uses a prior mean of zero.
                None uses the names for up to 256 training rows if they are words, the language
                model's head is available (a decoder with tied embeddings) and the last layer is
                fitted at once rather than step by step (`nuts`, `vbll` that refits its means, and
                every posterior without an adapter).
            format: Format of multiple-choice questions: `"options"` scores each option after the
                question with one shared weight vector and the language model's log-likelihood;
                `"letters"` lists the options in the prompt and asks for a letter, as published
                results do. None uses `"options"`.
            progress: Whether to show progress bars on stderr.
            **loading: `dtype`, `device` and `trust_remote_code`, see `Loading`.

        Raises:
            InputError: A name or an option is not allowed.
        """
        check_keywords("BayesianClassifier", loading, Loading)
        dtype = loading.pop("dtype", "auto")
        self._backbone = backbone if isinstance(backbone, Backbone) else None
        if isinstance(backbone, Backbone):
            dtype, backbone = backbone.dtype, backbone.name
        self.plan = Plan(
            str(backbone) if isinstance(backbone, Path) else backbone,
            dtype,
            adapter,
            posterior,
            seed,
            max_length,
            depth=depth,
            template=None if template is None else Template(template),
            verbaliser=verbaliser,
            format=format,
            progress=progress,
        )
        self._place: Place = loading
        self._network: Network | None = None
        self._in_memory = False
        self._undecided = False
        self.validation_scores: tuple[Scores, Scores] | None = None
        self.side_by_side: Comparison | None = None

    @property
    def adapter(self) -> Adapter:
        """Options of the adapter."""
        return self.plan.adapter

    @property
    def posterior(self) -> Posterior:
        """Options of the posterior."""
        return self.plan.posterior

    def __repr__(self) -> str:
        """Return a one-line summary of the components and the fit."""
        return f"<BayesianClassifier {': '.join(self._summary())}>"

    def _repr_html_(self) -> str:
        """Return an HTML table for notebooks."""
        rows = zip(("made of", "state"), self._summary(), strict=True)
        return table_html("BayesianClassifier", ("", ""), list(rows))

    def _summary(self) -> tuple[str, str]:
        """Return what the classifier is made of, and its state."""
        made_of = f"{self.posterior.name} on {self.plan.backbone or 'the default backbone'}"
        if self._network is None:
            return f"{self.adapter.name} + {made_of}", "not fitted"
        record, count = self.record, len(self.classes)
        if record.adapter is not None:
            made_of = f"{self.adapter.name} + {made_of}"
        named = ", ".join([*self.classes[:5], *["…"] * (count > 5)])
        fitted = fit_words(record) if record.num_train else "no posterior fitted yet"
        return made_of, f"{count} classes ({named}), {fitted}"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in index order, available after fitting."""
        return tuple(self.record.classes)

    @property
    def network(self) -> Network:
        """The finished network, with backbone, adapters, last layer and their record.

        Raises:
            InputError: Nothing is fitted.
        """
        if self._network is None:
            raise InputError(
                "this classifier is not fitted; call fit, from_pretrained or from_transformers",
                code="not-fitted",
            )
        return self._network

    @property
    def record(self) -> ModelRecord:
        """Configuration and results of the fit, as stored in `bayeslora.json`."""
        return self.network.record

    @property
    def held_out(self) -> Predictions | None:
        """Predictions of training rows by networks that were fitted without them.

        A fit with cross-validation (`cv`) keeps them: of all rows with as many folds as `cv` says,
        by default of about 128 or more. They are for `decide`, `recalibrate` and
        `find_label_errors`, without a further labelled row. The final classifier is fitted to all
        rows, or averages the networks, so these probabilities are rather too cautious for it. The
        scale of the logits was chosen on the same rows, which costs one parameter. After `update`
        they are those of the new rows, of last layers that were updated without them. None without
        cross-validation, and after `calibrate`, whose posterior is another.

        Raises:
            InputError: Nothing is fitted.
        """
        return self.network.held_out

    @with_meanings(TrainingSettings, CHOSEN)
    def fit(
        self,
        train: Any,
        validation: Any = None,
        *,
        feature_scores: str | Sequence[str] | None = None,
        out: str | Path | None = None,
        overwrite: bool = False,
        **options: Unpack[FitOptions],
    ) -> BayesianClassifier:
        """Fine-tune the adapter and fit the posterior.

        Processes started by `torchrun` or `accelerate launch` share the work and return the result
        of a single process; see the guide to scaling.

        Args:
            train: Labelled data: a file, a `datasets.Dataset`, an iterable of mappings, a pair
                (texts, labels), or `Examples`; also texts, with their labels as second argument. A
                mapping from task names to such data trains several tasks at once: their classes are
                named `name: class`, and each row is classified among those of its task.
            validation: Held-out labelled data, a mapping for several tasks, or the labels of
                `train`. Its NLL selects the
                epoch and the posterior's hyperparameters; without it, see `cv`.
            feature_scores: Out-of-distribution scores to fit with the posterior and add to
                predictions: `mahalanobis`, `knn`, `middle_mahalanobis`, `unfamiliarity`.
                None uses `unfamiliarity` with the two distances that it combines, if one pass gives
                the features and the rows of a class differ; `none` uses none.
            out: Directory to save the model in. The same call resumes an interrupted fit from its
                last checkpoint there.
            overwrite: Whether `out` may be replaced.
            **options: Names of columns, see `ColumnNames`, and the options of training below.
                Objects among them may be given as a mapping or as text, too.

        Raises:
            InputError: The data or an option is not allowed, or `out` holds an input; nothing is
                written.
        """
        check_keywords("fit", options, FitOptions)
        if are_labels(validation):
            if isinstance(train, str | Path):
                raise InputError(f"labels need texts, got the path {str(train)!r}; pass it alone")
            train, validation = (train, validation), None
        if out is not None:
            refuse_inputs(out, *_files(train, validation), *directories(self.plan.backbone))
            current().first(partial(check_writable, out))
        # Imported here: predictions do not need the training loop.
        from bayeslora.engine.fit import fit_classifier

        plan = self.plan.for_fit(feature_scores, options)
        columns = DataColumns().renamed(**columns_in(options))
        data = current().first_then_all(lambda: TrainingData.read(train, validation, columns))
        with (
            together() as world,
            world.first_holds(lambda: nullcontext() if out is None else lock(out)),
            quiet_transformers(),
        ):
            network = fit_classifier(plan, data, self._load_backbone, out=out, overwrite=overwrite)
            self._take(network)
            if out is not None:
                world.first(partial(self.save_pretrained, out, overwrite=True))
        return self

    def predict(
        self,
        data: Any,
        *,
        keep: str | Sequence[str] = (),
        text_column: str | None = None,
        label_column: str | None = None,
        **options: Unpack[DrawOptions],
    ) -> Predictions:
        """Return class probabilities and uncertainties of each row.

        Args:
            data: As for `fit`, with optional labels and, for several tasks, a mapping or a column
                `task`; or a text, or an iterable of texts, or of image paths for a vision
                backbone. A string is a path if such a file exists, if it ends like a data file
                (`.jsonl`, `.csv`), or if it is one word with a slash or an ending such as `.txt`;
                any other string is a text to classify. `[text]` is always a text.
            keep: Data columns to copy to the predictions, such as the source of a row, for scores
                by group, or its text.
            text_column: Column of the texts, or a template of several, such as `{subject} {body}`,
                if it has another name than in the training data.
            label_column: The same for the labels.
            **options: `num_samples`, `link`, `seed` and `unknown_labels`, see `DrawOptions`.

        Raises:
            InputError: The data or an option is not allowed, or the classifier is not fitted.
        """
        check_keywords("predict", options, DrawOptions)
        network = self._calibrated()
        columns = columns_of(self.record).renamed(text=text_column, label=label_column)
        rows = read_for(self.record, data, columns, keep=keep)
        say_fitted_to(self.record, data_hash(rows), rows.source)
        return predict_rows(network, rows, Drawing.of(network.posterior, **options))

    def predict_proba(self, data: Any, **options: Unpack[DrawOptions]) -> NDArray[np.float64]:
        """Return class probabilities [N, C], columns in the order of `classes`.

        Args:
            data: As for `predict`; labels are ignored.
            **options: As for `predict`.

        Raises:
            InputError: As `predict`.
        """
        options["unknown_labels"] = "ood"
        return self.predict(data, **options).probs

    def predict_to_file(
        self,
        data: Any,
        out: str | Path,
        *,
        keep: str | Sequence[str] = (),
        text_column: str | None = None,
        label_column: str | None = None,
        overwrite: bool = False,
        **options: Unpack[DrawOptions],
    ) -> None:
        """Write the result of `predict` to a file, in memory independent of the number of rows.

        The same call resumes a killed run from its finished pieces, in a hidden directory beside
        `out`; the file is then identical byte for byte.

        Args:
            data: As for `predict`.
            out: A `.parquet`, `.csv` or `.jsonl` file.
            keep: As for `predict`.
            text_column: As for `predict`.
            label_column: As for `predict`.
            overwrite: Whether `out`, and pieces of other interrupted predictions, may be replaced.
            **options: As for `predict`.

        Raises:
            InputError: The data or an option is not allowed, or `out` may not be written.
        """
        check_keywords("predict_to_file", options, DrawOptions)
        file_kind(out)
        world = current()
        world.first(PredictionParts(out).sweep)
        world.first(partial(refuse_existing, out, overwrite=overwrite))
        refuse_inputs(out, *_files(data))
        network = self._calibrated()
        drawing = Drawing.of(network.posterior, **options)
        columns = columns_of(self.record).renamed(text=text_column, label=label_column)
        stream = stream_for(self.record, data, columns, keep=keep)
        rows = CheckedRows(self.record, stream, drawing.unknown_labels)
        predict_to_file(network, rows, drawing, out, overwrite=overwrite)

    def calibrate(
        self,
        train: Any,
        validation: Any = None,
        *,
        posterior: Any = None,
        hold_out: float = 0.0,
        feature_scores: str | Sequence[str] | None = None,
        **columns: Unpack[ColumnNames],
    ) -> BayesianClassifier:
        """Fit the posterior to labelled data, without changing the network's weights.

        The posterior of the last layer is conditioned on these rows, so no training data is
        needed. Rows that the network was trained on hide its errors, and a prior or temperature
        chosen on them is overconfident. With a single held-out sample, `hold_out=0.5` lets
        `laplace` choose its prior. `record.results["calibration"]` has the number of rows and the
        accuracy on them; a warning is logged if all of 59 or more rows are correct.

        Args:
            train: Labelled data, preferably rows that the network was not trained on; several
                tasks as for `predict`.
            validation: Held-out labelled data for the posterior's own choices (a prior, a
                temperature, the means of `VBLL`, which are refitted without such data); scored
                before and after in `validation_scores` and on the model card.
            posterior: Another posterior of the last layer, or `laplace_lora` or `tfb` over
                adapters; it starts from the mean of the current one. None keeps the current one,
                or is `best` if none was named. `best` selects the lowest cross-validated NLL among
                `mle`, `temperature`, `laplace` and `vbll`, or `laplace` for fewer than 20 rows; the
                comparison is in `side_by_side` and on the model card.
            hold_out: Share of the `train` rows to use as `validation`, stratified by class and
                drawn with the classifier's seed.
            feature_scores: As for `fit`, but None refits the classifier's scores to the new rows,
                or uses the default of `fit` if it has none.
            **columns: Names of columns that differ from those of the fit, see `ColumnNames`.

        Raises:
            InputError: The data or a score is not allowed, or the posterior cannot be fitted to a
                finished network.
        """
        from bayeslora.engine.calibrate import calibrate

        check_keywords("calibrate", columns, ColumnNames)
        # After `zero_shot` the configured posterior has not been fitted yet.
        config: Posterior | None = (self.network if self.record.num_train else self).posterior
        if posterior is not None or self._undecided:
            config = None if posterior in (None, BEST) else resolve_posterior(posterior)
        self._take(
            *calibrate(
                self.network,
                config,
                train,
                validation,
                names=columns,
                feature_scores=feature_scores,
                hold_out=hold_out,
            )
        )
        self.plan = replace(self.plan, posterior=self.network.posterior)
        return self

    def update(self, more: Any, **columns: Unpack[ColumnNames]) -> BayesianClassifier:
        """Let the last layer learn from more labelled rows, in seconds and without the old ones.

        Its posterior is the prior of these rows. How much the old rows count, and the scale of the
        logits, are chosen by cross-fitting on the new rows, on which the result is never worse than
        before. `record.results["update"]` has both, the NLL before and after, and why a full fit
        would be better, if something speaks for it; `held_out` has the predictions of the new rows.
        The features, and so out-of-distribution scores, do not change.

        Args:
            more: At least 20 labelled rows that the classifier was not fitted to.
            **columns: Names of columns that differ from those of the fit, see `ColumnNames`.

        Returns:
            This classifier.

        Raises:
            InputError: The rows are not allowed, or the posterior takes no more rows.
        """
        from bayeslora.engine.update import update

        check_keywords("update", columns, ColumnNames)
        self._take(update(self._calibrated(), more, names=columns))
        return self

    def adapt(
        self, support: Any, *, posterior: Any = None, **columns: Unpack[ColumnNames]
    ) -> BayesianClassifier:
        """Return a classifier for new classes, fitted to a few labelled rows.

        The network's weights stay fixed, except that a pool of adapters (`amt`) is merged anew for
        these classes; the last layer is fitted to these rows alone. This classifier does not
        change.

        Args:
            support: Labelled rows of the new classes.
            posterior: Posterior of the last layer; None keeps the current one.
            **columns: Names of columns that differ from those of the fit, see `ColumnNames`.

        Raises:
            InputError: The rows are not allowed, the posterior cannot be fitted to a finished
                network, or this classifier is from `from_transformers` or `from_module`.
        """
        # Imported here: predictions do not need it.
        from bayeslora.engine.calibrate import for_new_classes

        check_keywords("adapt", columns, ColumnNames)
        network = self.network
        names = columns_of(self.record).renamed(**columns_in(columns))
        rows = read_labelled(support, names)
        config = network.posterior if posterior is None else resolve_posterior(posterior)
        adapted = for_new_classes(network, config, rows, columns=names)
        return self._around(adapted, self._backbone, self._place)

    def spectrum(self) -> list[list[SiteSpectrum]]:
        """Return the change of each adapted weight, as one list per ensemble member.

        Each entry has the layer's `name`, the `singular_values` of the change, its `norm`,
        `relative_norm` and `stable_rank`, and the factors' `drift` from orthogonality.

        Raises:
            InputError: Nothing is fitted.
        """
        network, spectra = self.network, []
        try:
            for member in network.members:
                network.load_trained_state(member)
                companion = network.companion
                whole = [] if companion is None else companion.spectra()
                spectra.append([*map(spectrum, network.sites), *whole])
        finally:
            network.load_trained_state(network.members[0])
        return spectra

    def save_pretrained(self, directory: str | Path, *, overwrite: bool = False) -> None:
        """Write the fitted classifier to a directory atomically, with `held_out` if it has it.

        Raises:
            InputError: The directory exists and `overwrite` is false, it is no model, another
                process is fitting into it, nothing is fitted, or the network is an in-memory
                classifier that could not be loaded again (a module of `from_module` is passed
                again when loading).
        """
        self._save(directory, self._calibrated().files(), overwrite=overwrite)

    def _save(self, directory: str | Path, files: ModelFiles, *, overwrite: bool = False) -> None:
        refuse_foreign(directory, *LAYOUTS)
        if self._in_memory and files.record.backbone["kind"] == FOREIGN:
            trusts = self._place.get("trust_remote_code", False)
            load.check_place(files.record, trust_remote_code=trusts)
        # A saved model is useless without its backbone.
        refuse_inputs(directory, *directories(files.record.backbone["name"]))
        write_model(
            directory,
            files,
            tokenizer=self.network.encoder.backbone.tokenizer,
            card=model_card(files.record, files.fingerprint),
            overwrite=overwrite,
        )

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, commit_message: str | None = None
    ) -> str:
        """Upload the fitted classifier to the Hugging Face hub, with its card, without `held_out`.

        Args:
            repo_id: `owner/name`; created if it does not exist.
            private: Whether a new repository is private; None takes the default of its owner.
            commit_message: Message of the commit.

        Returns:
            The address of the commit.

        Raises:
            InputError: As `save_pretrained`.
        """
        with TemporaryDirectory() as folder:
            directory = Path(folder) / "model"
            # Ids and labels of training rows stay here.
            self._save(directory, replace(self._calibrated().files(), held_out=None))
            message = commit_message or "Upload a classifier by bayeslora"
            return upload(directory, repo_id, private=private, message=message)

    def export_peft(self, directory: str | Path, *, overwrite: bool = False) -> None:
        """Write the adapter as a LoRA checkpoint for PEFT, with a README on loading it.

        Args:
            directory: Output directory.
            overwrite: Whether an existing directory may be replaced.

        Raises:
            InputError: See `check_export` of the target; or there is no adapter, there are several
                networks, or its change of the weights depends on the input (posterior `clora`), or
                whole layers were trained (adapter `lisa`).
        """
        from bayeslora.engine.export import write_peft

        write_peft(self.network, directory, overwrite=overwrite)

    def export_merged(self, directory: str | Path, *, overwrite: bool = False) -> None:
        """Write the mean network with merged adapter as a classifier of transformers.

        `AutoModelForSequenceClassification` loads it. Uncertainty is not exported: the logits are
        those of `predict(num_samples=0)`.

        Args:
            directory: Output directory for the model and its tokenizer.
            overwrite: Whether an existing directory may be replaced.

        Raises:
            InputError: The directory exists and `overwrite` is false, it is no such model or the
                backbone itself, or there are several networks; or no classifier of transformers
                computes the same function (only those of decoders do).
        """
        from bayeslora.engine.export import export_merged

        export_merged(self.network, directory, overwrite=overwrite)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        *,
        backbone: str | Path | Backbone | None = None,
        module: nn.Module | None = None,
        encode: Callable[..., Any] | None = None,
        progress: bool = True,
        **place: Unpack[Place],
    ) -> BayesianClassifier:
        """Load a classifier written by `save_pretrained`.

        Args:
            directory: The model directory, or `owner/name` of one on the Hugging Face hub.
            backbone: New location of the backbone, if it has moved.
            module: The module of a classifier from `from_module`, with the same weights.
            encode: The function that encodes its texts.
            progress: Whether to show progress bars.
            **place: `device` and `trust_remote_code`, see `Place`.

        Raises:
            InputError: The directory is missing, foreign, damaged, newer, or made for another
                backbone; the message says which.
        """
        check_keywords("from_pretrained", place, Place)
        files = read_model(local_directory(directory))
        source = files.record.backbone["name"] if backbone is None else backbone
        source = str(source) if isinstance(source, Path) else source
        network = load.saved_model(files, source, module, encode, progress=progress, **place)
        return cls._around(network, source, place)

    @classmethod
    def from_transformers(
        cls,
        model: Any,
        posterior: Any = None,
        *,
        tokenizer: Any = None,
        layer: str | None = None,
        classes: Sequence[str] | None = None,
        max_length: int = MAX_LENGTH,
        progress: bool = True,
        **place: Unpack[Place],
    ) -> BayesianClassifier:
        """Load a fine-tuned sequence classifier from transformers; `calibrate` fits its posterior.

        Args:
            model: A directory, hub id or PEFT checkpoint, the model itself, or a `pipeline`.
            posterior: `laplace_lora` or `tfb`, over the adapters of a PEFT checkpoint; or over the
                last layer: `laplace`, whose mean is the classifier itself; `vbll` and `nuts`,
                which move the mean; `gvbll` and `prototypes`, which replace the layer;
                `temperature`; or, as a baseline, `mle` or `map`, both the classifier's own
                softmax. Others need training and are refused. None leaves the choice to
                `calibrate`, which takes `best`.
            tokenizer: Tokenizer of an in-memory model, if it cannot be found.
            layer: Dotted name of the final linear layer, if it cannot be found;
                `record.backbone["layer"]` has the name in use.
            classes: Class names in index order; None uses those of the configuration. Labels of
                the data are these names, or indices if no name is a number.
            max_length: Maximum tokens per text, 128 by default.
            progress: Whether to show progress bars.
            **place: `device` and `trust_remote_code`, see `Place`.

        Raises:
            InputError: The model does not exist or lacks weights, its final layer has no features,
                or the posterior is neither over the last layer nor over existing adapters.
        """
        check_keywords("from_transformers", place, Place)
        checked("max_length", max_length, Count)
        if hasattr(model, "task") and hasattr(model, "tokenizer"):  # a pipeline
            model, tokenizer = model.model, tokenizer or model.tokenizer
        network = load.foreign_model(
            str(model) if isinstance(model, Path) else model,
            own_softmax() if posterior is None else resolve_posterior(posterior),
            tokenizer=tokenizer,
            layer=layer,
            classes=classes,
            max_length=max_length,
            progress=progress,
            **place,
        )
        clf = cls._around(network, network.record.backbone["name"], place)
        clf._in_memory, clf._undecided = isinstance(model, nn.Module), posterior is None
        return clf

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        posterior: Any = None,
        *,
        encode: Callable[..., Any],
        classes: Sequence[str],
        layer: str | None = None,
        device: str | None = None,
        progress: bool = True,
    ) -> BayesianClassifier:
        """Wrap any trained torch module; `calibrate` fits its posterior.

        A saved classifier contains the posterior but not the module:
        `from_pretrained(directory, module=module, encode=encode)` loads it and checks that the
        weights match.

        Args:
            module: Maps a batch to logits [B, C], returned alone or as `.logits`: the output of a
                final `nn.Linear`, whose input [B, d] is the feature. It is frozen and set to
                evaluation mode.
            posterior: As for `from_transformers`.
            encode: Maps a list of texts to a batch: a tensor, a mapping (passed by name) or a tuple
                (by position), whose tensors are moved to the module's device. It is called with
                two lists if the data has second texts. Texts come in any order, at most 64.
            classes: Names of the C classes in index order.
            layer: Dotted name of the final layer; None uses the only one with C outputs.
            device: A torch device; None leaves the module where it is.
            progress: Whether to show progress bars.

        Raises:
            InputError: An argument is not allowed, or the final layer is ambiguous. `calibrate`
                raises it if the layer does not have one input per row, or the module's logits are
                not its output.
        """
        config = own_softmax() if posterior is None else resolve_posterior(posterior)
        encoder = wrap_module(module, encode, classes, layer=layer, device=device)
        network = load.module_model(encoder, config, progress=progress)
        clf = cls._around(network, network.record.backbone["name"], {"device": device})
        clf._undecided = posterior is None
        return clf

    def zero_shot(
        self,
        classes: Sequence[str] | None = None,
        texts: Any = None,
        *,
        out: str | Path | None = None,
        overwrite: bool = False,
        **columns: Unpack[ColumnNames],
    ) -> BayesianClassifier:
        """Use the language model's own answers, without labels.

        Predictions are the softmax of its logits for the class words after the template, as with
        `mle`; `calibrate` then fits a posterior to labelled rows (`vbll` moves the answer,
        `laplace` and `temperature` quantify its uncertainty). The configured adapter and posterior
        have no effect. All layers are used unless `depth` is set.

        Args:
            classes: C names in index order; `verbaliser` may have other words for them. None takes
                the names in `verbaliser` and the labels of `texts`; multiple-choice questions need
                none.
            texts: Eight or more representative texts or questions, as for `predict`; the mean
                answer to texts is subtracted, since a language model prefers some words regardless
                of the text. None subtracts nothing. Labels do not change an answer.
            out: Directory to save the model in.
            overwrite: Whether `out` may be replaced.
            **columns: Names of columns, see `ColumnNames`.

        Raises:
            InputError: The backbone is an encoder, or the classes, words or texts are not allowed.
        """
        check_keywords("zero_shot", columns, ColumnNames)
        if out is not None:
            refuse_inputs(out, *_files(texts), *directories(self.plan.backbone))
            refuse_existing(out, overwrite=overwrite)
            check_writable(out)
        names = DataColumns().renamed(**columns_in(columns))
        rows = None if texts is None else read(texts, names)
        with quiet_transformers():
            self._take(zero_shot(self.plan, classes, rows, names, self._load_backbone))
        if out is not None:
            self.save_pretrained(out, overwrite=overwrite)
        return self

    @classmethod
    def _around(
        cls, network: Network, backbone: str | Backbone | None, place: Place
    ) -> BayesianClassifier:
        clf = cls(**place)
        clf.plan = replace(Plan.of(network.record), progress=network.progress)
        if isinstance(backbone, Backbone):
            clf._backbone = backbone
            clf.plan = replace(clf.plan, backbone=backbone.name)
        clf._network = network
        return clf

    def _take(
        self,
        network: Network,
        validation_scores: tuple[Scores, Scores] | None = None,
        side_by_side: Comparison | None = None,
    ) -> None:
        self._network = network
        self.validation_scores, self.side_by_side = validation_scores, side_by_side

    def _calibrated(self) -> Network:
        network = self.network
        if not self.record.num_train and network.posterior.learns_from != "nothing":
            raise InputError(
                f"posterior {network.posterior.name!r} is not fitted to this classifier yet; call "
                "calibrate with rows that the network was not trained on",
                code="not-fitted",
            )
        return network

    def _load_backbone(self, name: str) -> Backbone:
        """Return the backbone of a name, which is kept unless it is one of several to compare."""
        if self._backbone is not None and self._backbone.name == name:
            return self._backbone
        loaded = load_backbone(name, dtype=self.plan.dtype, **self._place)
        if self.plan.backbone != AUTO:
            self._backbone = loaded
        return loaded


def _files(*data: Any) -> list[str | Path]:
    """Return the files among data, or among the data of several tasks."""
    parts = [part for item in data for part in (item.values() if is_union(item) else [item])]
    return [part for part in parts if isinstance(part, str | Path)]
