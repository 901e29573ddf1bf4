"""The cost of an import, the public names, and the direction of imports."""

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
    """Return the heavy packages that a fresh interpreter has loaded after `statement`."""
    code = f"import sys\n{statement}\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "statement",
    [
        "import bayeslora; bayeslora.InputError; bayeslora.__version__; dir(bayeslora)",
        "import bayeslora; bayeslora.register_posterior",
        "from bayeslora import errors, io, options",
        "from bayeslora.posteriors.registry import CATALOGUE; list(CATALOGUE)",
        "from bayeslora.adapters.registry import CATALOGUE; list(CATALOGUE)",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(statement):
    assert loaded_after(statement) == "[]"


def test_importing_the_package_looks_through_no_others():
    code = "import sys; before = {*sys.modules}; import bayeslora; print({*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "bayeslora" in done.stdout
    assert "importlib.metadata" not in done.stdout


def test_scoring_a_file_needs_no_model_library():
    modules = (
        "bayeslora.predictions.record",
        "bayeslora.metrics.evaluate",
        "bayeslora.recalibration.recalibrate",
        "bayeslora.conformal",
        "bayeslora.data.read",
    )
    loaded = loaded_after(f"import {', '.join(modules)}")
    for name in ("transformers", "peft", "pyro"):
        assert name not in loaded


@pytest.mark.parametrize("has_ood", [False, True])
def test_evaluate_loads_no_library_of_models_or_of_data_frames(tmp_path, has_ood):
    """pyarrow imports pandas for many of its conversions, half a second."""
    path = tmp_path / "rows.csv"
    path.write_text("id,label,prob_a,prob_b\n1,a,.6,.4\n2,b,.3,.7\n", encoding="utf-8")
    options = ["--ood", f"far={path}"] if has_ood else []
    code = (
        "import sys; from bayeslora.cli import main\n"
        f"try: main({['evaluate', str(path), *options]!r})\n"
        "except SystemExit as end: assert not end.code\n"
        "print({'netcal', 'pandas', 'torch', 'torchmetrics'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("module", ["classifier", "engine.fit"])
def test_neither_predictions_nor_fits_need_the_trainer_of_transformers(module):
    libraries = {"peft", "transformers.trainer"}
    code = f"import sys, bayeslora.{module}; print({libraries} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", bayeslora.__all__)
def test_every_public_name_resolves(name):
    assert getattr(bayeslora, name).__doc__


PUBLIC = bayeslora._homes() | bayeslora._method_homes()
"""The module of each public name."""


def test_the_list_of_public_names_is_complete():
    assert dir(bayeslora) == bayeslora.__all__ == sorted(PUBLIC)
    namespace = {}
    exec("from bayeslora import *", namespace)
    assert {*bayeslora.__all__} <= {*namespace}


def test_the_version_is_the_installed_one():
    from importlib.metadata import version

    assert bayeslora.__version__ == version("bayeslora")


def test_imports_point_down():
    """Run in a separate process: the linter disables all existing loggers."""
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


def test_the_engine_names_no_method():
    """But `none`, which is a word for other things, too."""
    names = {*POSTERIORS, *ADAPTERS} - {"none"}
    for path in (Path(bayeslora.__file__).parent / "engine").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert names.isdisjoint(texts), path.name


def test_the_engine_asks_no_part_what_it_has():
    """Optional members of heads, networks and methods have defaults."""
    for path in (Path(bayeslora.__file__).parent / "engine").rglob("*.py"):
        assert "hasattr(" not in path.read_text(encoding="utf-8"), path.name


def test_import_contracts_allow_no_import_of_a_method():
    contracts = ConfigParser()
    contracts.read(Path(bayeslora.__file__).parents[1] / ".importlinter")
    methods = {cls.__module__ for cls in (*ADAPTERS.values(), *POSTERIORS.values())}
    for contract in ("engine", "methods", "adapters"):
        section = contracts[f"importlinter:contract:{contract}"]
        lines = section.get("ignore_imports", "").split("\n")
        assert methods.isdisjoint(line.split(" -> ")[1] for line in lines if line), contract
