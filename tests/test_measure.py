"""The tests that the list of slow tests names."""

from types import SimpleNamespace

import pytest
from measure import LIMIT, Measure, slow_tests

FILE = "engine/test_fit.py"
CASE, QUICK = f"{FILE}::test_it", f"{FILE}::test_quick"
MADE = f"{FILE}::TestMadeFromARegistry::test_law"


def listed(seconds, before=(), skipped=(), **options):
    """Return the list after a run of a test that took `seconds` and of a quick test."""
    own = {f"tests/{CASE}": seconds, f"tests/{QUICK}": 0.01}
    skipped = [f"tests/{case}" for case in skipped]
    return slow_tests(own, {}, dict.fromkeys(own, ()), before, skipped, **options)


@pytest.mark.parametrize("share", [0.2, 0.6, 1.2])
def test_what_is_listed_stays_until_it_takes_half_of_the_limit(share):
    assert listed(share * LIMIT) == [CASE] * (share > 1)
    assert listed(share * LIMIT, [CASE]) == [CASE] * (share > 0.5)


@pytest.mark.parametrize("name", [CASE, FILE])
def test_a_test_that_was_skipped_stays(name):
    """Without a browser, a test that needs it takes no time at all."""
    assert listed(0.01, [name]) == []
    assert listed(0.01, [name], skipped=[CASE]) == [name]


def test_what_did_not_run_stays_until_all_tests_run():
    before = [MADE, "gone/test_it.py::test_it"]
    assert listed(0.6, before) == [MADE, CASE]
    assert listed(0.6, before, whole=True) == [CASE]


def test_a_shared_fixture_is_measured_once_per_file():
    measure = Measure()
    fixture = SimpleNamespace(scope="module", argname="world")
    request = SimpleNamespace(node=SimpleNamespace(nodeid=CASE), param_index=0)
    for _ in range(2):
        hook = measure.pytest_fixture_setup(fixture, request)
        next(hook)
        with pytest.raises(StopIteration):
            hook.send("the value")
    assert [*measure.results["shared"]] == [f"{FILE}::world[0]"]
