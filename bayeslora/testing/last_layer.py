"""The laws that every last-layer posterior obeys, as a suite to inherit.

    from bayeslora.testing.last_layer import LastLayerLaws

    class TestTheirs(LastLayerLaws):
        config = Theirs(prior_scale=1.0)

pytest then runs a test a law, each on heads that `build_head` of `bayeslora.posteriors.registry`
makes from the configuration, fitted to a few rows of `bayeslora.testing.toy`. No backbone is loaded
and nothing is registered: the suite runs in seconds, before a package is installed as well.
`LastLayerCase` says what else a subclass may set. A law that a method is not meant to obey is
overridden by one that it is, and its docstring says why.
"""

from __future__ import annotations

from bayeslora.testing.fit_laws import FitLaws
from bayeslora.testing.prediction_laws import PredictionLaws
from bayeslora.testing.record_laws import RecordLaws


class LastLayerLaws(PredictionLaws, FitLaws, RecordLaws):
    """What predictions, fits and records of a last-layer posterior keep to.

    A subclass sets `config`; the other attributes of `LastLayerCase` have defaults.
    """
