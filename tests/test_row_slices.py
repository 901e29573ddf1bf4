"""Every row is in one slice, in order, and no slice is larger than asked for."""

from hypothesis import given
from hypothesis import strategies as st

from bayeslora.row_slices import row_slices


@given(st.integers(0, 200), st.integers(0, 50), st.integers(1, 300))
def test_slices_cover_the_rows_in_order(rows, elements, most):
    found = list(row_slices(rows, elements, most))
    assert [row for one in found for row in range(rows)[one]] == list(range(rows))
    assert all(len(range(rows)[one]) <= max(1, most // max(1, elements)) for one in found)


def test_no_rows_are_one_empty_slice():
    assert list(row_slices(0, 5)) == [slice(0, 0)]
