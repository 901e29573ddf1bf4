"""The metadata that predictions record about their method."""

from bayeslora import MLE, VBLL
from bayeslora.adapters.polar.options import PoLAR
from bayeslora.engine.card import method_notes


def test_a_method_is_named_described_and_cited():
    notes = method_notes("polar", VBLL(), 1)
    assert notes == {
        "adapter": "polar",
        "adapter_summary": PoLAR.summary,
        "posterior": "vbll",
        "posterior_summary": VBLL.summary,
        "passes": "1",
        "sources": f"{PoLAR.source}; {VBLL.source}",
    }


def test_a_network_that_was_not_adapted_names_no_adapter():
    notes = method_notes(None, MLE(), 3)
    assert set(notes) == {"posterior", "posterior_summary", "passes", "sources"}
    assert notes["sources"] == MLE.source
