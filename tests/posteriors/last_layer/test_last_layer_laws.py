"""The laws of last-layer posteriors, checked for each posterior of the package."""

from bayeslora import GVBLL, NUTS, VBLL, Laplace
from bayeslora.posteriors.registry import POSTERIORS
from bayeslora.testing.last_layer import LastLayerLaws


def default_heads():
    """Return the default posterior of each head, with and without a prior.

    GVBLL and NUTS have their own tolerances in `test_gvbll.py` and `test_nuts_laws.py`.
    """
    by_head = {}
    for posterior in POSTERIORS.values():
        by_head.setdefault((posterior.head, hasattr(posterior, "prior_scale")), posterior)
    return [posterior for posterior in by_head.values() if posterior not in (GVBLL, NUTS)]


for _posterior in default_heads():
    _name = f"TestDefault{_posterior.__name__}"
    globals()[_name] = type(_name, (LastLayerLaws,), {"config": _posterior()})


class TestEigenbasisVBLL(LastLayerLaws):
    config = VBLL(prior_scale=2.0, covariance="eigenbasis")


class TestFullLaplace(LastLayerLaws):
    config = Laplace(structure="full")
