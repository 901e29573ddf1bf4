"""What an import costs, which names are public, and which way imports point."""

import ast
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

import bayeslora
from bayeslora.adapters.registry import ADAPTERS
from bayeslora.posteriors.registry import POSTERIORS

HEAVY = (
    "matplotlib",
    "netcal",
    "numpy",
    "peft",
    "pyarrow",
    "pyro",
    "pytest",
    "torch",
    "torchmetrics",
    "transformers",
)


def loaded_after(statement):
    """Return which heavy packages a fresh interpreter holds after `statement`."""
    code = f"import sys\n{statement}\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "statement",
    [
        "import bayeslora; bayeslora.InputError; bayeslora.__version__; dir(bayeslora)",
        "import bayeslora; bayeslora.VBLL(); bayeslora.Laplace(); bayeslora.PoLAR()",
        "import bayeslora; bayeslora.register_posterior",
        "from bayeslora import errors, files, options",
        "from bayeslora.posteriors.registry import listed_posteriors; listed_posteriors()",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(statement):
    assert loaded_after(statement) == "[]"


@pytest.mark.slow
def test_scores_of_predictions_need_no_network_library():
    rows = '{"label": [0, 1] * 20, "prob_0": [0.8, 0.3] * 20, "prob_1": [0.2, 0.7] * 20}'
    statement = f"import bayeslora, pandas; bayeslora.evaluate(pandas.DataFrame({rows}))"
    assert loaded_after(statement) == "['numpy', 'pyarrow']"


def test_importing_the_package_looks_through_no_others():
    code = "import sys; before = {*sys.modules}; import bayeslora; print({*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "bayeslora" in done.stdout
    assert "importlib.metadata" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        "bayeslora.predictions.record",
        "bayeslora.metrics.evaluate",
        "bayeslora.recalibration.recalibrate",
        "bayeslora.conformal.sets",
        "bayeslora.tasks.readers",
    ],
)
def test_scoring_a_file_needs_no_model_library(module):
    loaded = loaded_after(f"import {module}")
    for name in ("transformers", "peft", "pyro"):
        assert name not in loaded


@pytest.mark.slow
def test_a_prediction_needs_no_training_loop():
    code = (
        "import sys, bayeslora.classifier; print({'peft', 'transformers.trainer'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", bayeslora.__all__)
def test_every_public_name_resolves(name):
    assert getattr(bayeslora, name).__doc__


def test_the_list_of_public_names_is_complete():
    assert set(bayeslora.__all__) == {*bayeslora._HOMES, "__version__"}
    assert dir(bayeslora) == sorted(bayeslora.__all__)


def test_type_checkers_see_every_public_name_where_it_is():
    tree = ast.parse(Path(bayeslora.__file__).read_text(encoding="utf-8"))
    (block,) = [item for item in tree.body if isinstance(item, ast.If)]
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    imports = [item for item in block.body if isinstance(item, ast.ImportFrom)]
    seen = {name.asname or name.name: item.module for item in imports for name in item.names}
    assert seen == bayeslora._HOMES
    assert list(bayeslora._HOMES) == sorted(bayeslora._HOMES)


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'Lora'"):
        _ = bayeslora.Lora


def test_the_version_is_the_installed_one():
    from importlib.metadata import version

    assert bayeslora.__version__ == version("bayeslora")


def test_imports_point_down():
    """In a process of its own: the linter switches off every logger that it finds."""
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [str(command), "--no-cache"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def homes(registry):
    """Return the folder or file of each built-in method."""
    return {cls.__module__.removesuffix(".options") for cls in registry.values()}


ADAPTER_HOMES, POSTERIOR_HOMES = homes(ADAPTERS), homes(POSTERIORS)


def home_of(module):
    """Return the home that a module belongs to; None where it is none's."""
    every = ADAPTER_HOMES | POSTERIOR_HOMES
    return next((one for one in every if module == one or module.startswith(f"{one}.")), None)


def kinds_asked(tree):
    """Yield the names of classes that `isinstance` and `issubclass` are asked about."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {
            "isinstance",
            "issubclass",
        }:
            yield from (one.id for one in ast.walk(node.args[1]) if isinstance(one, ast.Name))
        elif isinstance(node, ast.MatchClass):
            yield from (one.id for one in ast.walk(node.cls) if isinstance(one, ast.Name))


def test_no_method_is_asked_for_by_its_class_outside_its_home():
    found = []
    root = Path(bayeslora.__file__).parent
    for path in sorted(root.rglob("*.py")):
        module = ".".join(["bayeslora", *path.relative_to(root).with_suffix("").parts])
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            alias.asname or alias.name: home_of(node.module)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        found += [
            f"{module}: {name}"
            for name in kinds_asked(tree)
            if imported.get(name) not in {None, home_of(module)}
        ]
    assert found == []


def test_import_contracts_name_every_method():
    contracts = ConfigParser()
    contracts.read(Path(bayeslora.__file__).parents[1] / ".importlinter")

    def modules(contract, key):
        return set(contracts[f"importlinter:contract:{contract}"][key].split())

    # The point estimates are what the engine falls back to; layers rest under any adapter.
    known = {"bayeslora.posteriors.last_layer.estimates"}
    posteriors = POSTERIOR_HOMES - known
    assert modules("methods", "modules") == modules("engine", "forbidden_modules") == posteriors
    known = {"bayeslora.adapters.lisa", "bayeslora.adapters.frozen"}
    assert modules("adapters", "forbidden_modules") == ADAPTER_HOMES - known
