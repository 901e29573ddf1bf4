"""Suites of laws that a third party's methods can inherit; needs pytest, and nothing else does.

See `bayeslora.testing.last_layer`.
"""

import pytest

# A law that fails then shows its values, as an assertion in a test file does.
pytest.register_assert_rewrite(
    *(f"{__name__}.{module}" for module in ("fit_laws", "prediction_laws", "record_laws"))
)
