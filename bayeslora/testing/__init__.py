"""Suites of laws that a third party's methods can inherit; needs pytest, and nothing else does.

See `bayeslora.testing.last_layer`, `bayeslora.testing.weight_posterior` and, for adapters,
`bayeslora.testing.adapter`.
"""

import pytest

# A law that fails then shows its values, as an assertion in a test file does.
pytest.register_assert_rewrite(
    "bayeslora.testing.adapter",
    "bayeslora.testing.last_layer",
    "bayeslora.testing.weight_posterior",
)
