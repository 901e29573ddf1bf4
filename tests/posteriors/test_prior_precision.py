"""The search for a prior precision."""

import pytest

from bayeslora.posteriors.last_layer.algebra import LOG10_GRID, best_on_grid


@pytest.mark.parametrize(("best", "notes"), [(LOG10_GRID[0], 1), (0.5, 0), (LOG10_GRID[-1], 1)])
def test_an_optimum_at_the_edge_of_the_search_is_noted(best, notes, caplog):
    optimum = best_on_grid(lambda precision: -abs(precision - 3 * 10**best), 3.0, "evidence")
    assert optimum == pytest.approx(3 * 10**best)
    assert len(caplog.records) == notes
