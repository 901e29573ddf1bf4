"""Write `slow.txt`, the tests that `make unit` leaves out: `make slow`, or for a file or folder

    python -m pytest -p tests.measure -n 2 tests/engine

The time of a test is what it would take alone: CPU seconds of this process and its children, or
the time by the clock where that is longer, as with processes of a server or a browser. It has
setup, call and shared fixtures, but no imports, which happen once. A case that takes more than
`LIMIT` is slow. A test function is slow if its other cases together take longer than that, and a
file if all its functions are slow; `make unit` then does not import it. A listed name stays until
it takes less than half of the limit, so that two runs write the same list. It also stays if one of
its tests was skipped because a browser or a package is missing: nothing was measured then.
"""

import importlib
import os
import time
from collections import defaultdict
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import pytest

LIST = Path(__file__).with_name("slow.txt")
LIMIT = 0.15


class Measure:
    """The hooks of a process; an xdist worker sends its measurements to the controller."""

    def __init__(self):
        self.inside = 0.0  # seconds of blocks nested in the current block
        self.results = {"own": defaultdict(float), "shared": defaultdict(float), "uses": {}}
        self.results["skipped"] = {}

    @contextmanager
    def timed(self, add):
        """Call `add` with the seconds of the block, minus those of nested timed blocks."""
        outside, self.inside = self.inside, 0.0
        start, began = sum(os.times()[:4]), time.monotonic()
        try:
            yield
        finally:
            spent = max(sum(os.times()[:4]) - start, time.monotonic() - began)
            add(spent - self.inside)
            self.inside = outside + spent

    def pass_over_imports(self):
        load = importlib._bootstrap._find_and_load

        def timed(*args):
            with self.timed(lambda seconds: None):
                return load(*args)

        # Every import of a module that is not loaded yet passes through here.
        importlib._bootstrap._find_and_load = timed

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        if fixturedef.scope == "function":
            return (yield)
        name = shared_name(fixturedef, request.node.nodeid, request.param_index)

        def add(seconds):
            self.results["shared"][name] = max(seconds, self.results["shared"][name])

        with self.timed(add):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item):
        indices = item.callspec.indices if hasattr(item, "callspec") else {}
        self.results["uses"][item.nodeid] = [
            shared_name(fixtures[-1], item.nodeid, indices.get(name, 0))
            for name, fixtures in item._fixtureinfo.name2fixturedefs.items()
            if fixtures[-1].scope != "function"
        ]
        with self.measured(item):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item):
        with self.measured(item):
            return (yield)

    @contextmanager
    def measured(self, item):
        try:
            with self.timed(lambda seconds: self.add(item, seconds)):
                yield
        except pytest.skip.Exception:
            self.results["skipped"][item.nodeid] = 1
            raise

    def add(self, item, seconds):
        self.results["own"][item.nodeid] += seconds

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        for kind, values in getattr(node, "workeroutput", {}).get("found", {}).items():
            for name, value in values.items():
                known = self.results[kind].get(name, value)
                self.results[kind][name] = max(known, value)

    def pytest_sessionfinish(self, session, exitstatus):
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["found"] = {k: dict(v) for k, v in self.results.items()}
        elif exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
            before = LIST.read_text().splitlines()
            whole = session.config.args_source is not pytest.Config.ArgsSource.ARGS
            lines = slow_tests(before=before, whole=whole, **self.results)
            LIST.write_text("".join(f"{name}\n" for name in lines))


def shared_name(fixture, nodeid, index):
    """Return a name of a fixture's value; session fixtures are shared by all files."""
    file = "" if fixture.scope == "session" else nodeid.partition("::")[0]
    return f"{file}::{fixture.argname}[{index}]"


def slow_tests(own, shared, uses, before, skipped=(), *, whole=False):
    """Return the lines of the list; tests that ran are re-evaluated, `whole` if all tests ran."""

    def limit(*names):
        return LIMIT / 2 if any(name in before for name in names) else LIMIT

    lines, ran = set(), set()
    cases = {nodeid.removeprefix("tests/"): nodeid for nodeid in sorted(own)}
    for file, in_file in groupby(cases, key=lambda case: case.partition("::")[0]):
        functions = {}
        for function, named in groupby(in_file, key=lambda case: case.partition("[")[0]):
            rest, slow = {}, set()
            for case in named:
                extra = {name: shared[name] for name in uses[cases[case]] if name in shared}
                seconds = own[cases[case]]
                if seconds + sum(extra.values()) > limit(file, function, case):
                    slow.add(case)
                else:
                    rest |= extra | {case: seconds}
                ran.add(case)
            if not rest or sum(rest.values()) > limit(file, function):
                slow = {function}
            functions[function] = slow
        ran |= {file, *functions}
        all_slow = all(slow == {function} for function, slow in functions.items())
        lines |= {file} if all_slow else set().union(*functions.values())
    others = {name for name in before if name not in ran and is_there(name)}
    if whole:
        others = {name for name in others if name.partition("::")[0] not in ran}
    for case in (nodeid.removeprefix("tests/") for nodeid in skipped):
        others |= {*before} & {case, case.partition("[")[0], case.partition("::")[0]}
    return sorted(lines | others)


def is_there(name):
    """Return whether the file of `name` exists; test names may be generated, so ignore them."""
    return (LIST.parent / name.partition("::")[0]).exists()


def pytest_configure(config):
    measure = Measure()
    measure.pass_over_imports()
    config.pluginmanager.register(measure)
