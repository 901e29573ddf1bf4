"""A classifier for scikit-learn: pipelines, cross-validation, searches, calibration plots."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from bayeslora.classifier import BayesianClassifier


class TextClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """`BayesianClassifier` as an estimator; parameters are checked by `fit`.

    Attributes:
        classes_: [C] distinct labels in sorted order, the columns of `predict_proba`.
        classifier_: The fitted `BayesianClassifier`.

    Example:
        >>> model = TextClassifier("minilm", adapter="none")
        >>> model.fit(["good", "bad", "fine", "awful"], [1, 0, 1, 0])  # doctest: +SKIP
    """

    def __init__(
        self,
        backbone: Any = None,
        adapter: Any = "polar",
        posterior: Any = "vbll",
        *,
        seed: int = 0,
        max_length: int = 128,
        fit_options: dict[str, Any] | None = None,
    ) -> None:
        """Set the parameters of `BayesianClassifier`, and further options of its `fit`."""
        self.backbone = backbone
        self.adapter = adapter
        self.posterior = posterior
        self.seed = seed
        self.max_length = max_length
        self.fit_options = fit_options

    def fit(self, X: Any, y: Any) -> TextClassifier:
        """Fit to N texts and their labels [N] of any type that numpy can sort."""
        self.classes_, codes = np.unique(np.asarray(y), return_inverse=True)
        self.classifier_ = BayesianClassifier(
            self.backbone,
            self.adapter,
            self.posterior,
            seed=self.seed,
            max_length=self.max_length,
            progress=False,
        )
        self.classifier_.fit((list(X), codes.tolist()), **(self.fit_options or {}))
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probabilities [N, C] of N texts."""
        check_is_fitted(self)
        return self.classifier_.predict_proba(list(X))

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable label of each of N texts."""
        best = self.predict_proba(X).argmax(1)
        return np.asarray(self.classes_[best])
