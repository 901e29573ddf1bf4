"""Suites of laws to test third-party methods by inheritance; the only module that needs pytest.

See `bayeslora.testing.last_layer`, `bayeslora.testing.weight_posterior` and, for adapters,
`bayeslora.testing.adapter`.
"""

import pytest

# Failing laws then show their values, like assertions in test files.
pytest.register_assert_rewrite(
    "bayeslora.testing.adapter",
    "bayeslora.testing.last_layer",
    "bayeslora.testing.weight_posterior",
)
