"""The cost of an import, the public names, and the direction of imports."""

import ast
import subprocess
import sys
from configparser import ConfigParser
from fnmatch import fnmatch
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
        "import bayeslora; bayeslora.VBLL(); bayeslora.Laplace(); bayeslora.PoLAR()",
        "import bayeslora; bayeslora.register_posterior",
        "from bayeslora import errors, options; from bayeslora.io import files",
        "from bayeslora.posteriors.registry import CATALOGUE; CATALOGUE.listed()",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(statement):
    assert loaded_after(statement) == "[]"


def test_scores_of_predictions_need_no_network_library():
    rows = '{"label": [0, 1] * 20, "prob_0": [0.8, 0.3] * 20, "prob_1": [0.2, 0.7] * 20}'
    statement = f"import bayeslora, pandas; bayeslora.evaluate(pandas.DataFrame({rows}))"
    assert loaded_after(statement) == "['numpy', 'pyarrow']"


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


PUBLIC = bayeslora._HOMES | bayeslora._method_homes()
"""The module of each public name."""


def test_the_list_of_public_names_is_complete():
    assert dir(bayeslora) == bayeslora.__all__ == sorted([*PUBLIC, "__version__"])
    namespace = {}
    exec("from bayeslora import *", namespace)
    assert {*bayeslora.__all__} <= {*namespace}


def test_type_checkers_see_every_public_name_where_it_is():
    tree = ast.parse(Path(bayeslora.__file__).read_text(encoding="utf-8"))
    (block,) = [item for item in tree.body if isinstance(item, ast.If)]
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    imports = [item for item in block.body if isinstance(item, ast.ImportFrom)]
    # `name as name` exports it.
    seen = {name.asname: item.module for item in imports for name in item.names}
    assert seen == PUBLIC
    assert list(bayeslora._HOMES) == sorted(bayeslora._HOMES)


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'Lora'"):
        _ = bayeslora.Lora


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


METHODS = (*ADAPTERS.values(), *POSTERIORS.values())
OPTIONS = {cls.__module__ for cls in METHODS}
"""Modules with the options of all methods of a kind."""


def home_of_method(cls):
    """Return the file or folder of a method; its options' module where it has no other."""
    root = Path(bayeslora.__file__).parent
    rooms = ("adapters", "posteriors/last_layer", "posteriors/weights")
    for path in (root / room / cls.name for room in rooms):
        if path.is_dir() or path.with_suffix(".py").is_file():
            return ".".join(["bayeslora", *path.relative_to(root).parts])
    return cls.__module__


HOMES = {cls.__name__: home_of_method(cls) for cls in METHODS}


def home_of(module, name=""):
    """Return the home of the method that a module, or a class in it, belongs to; or None."""
    if module in OPTIONS:
        return HOMES.get(name.rpartition(".")[2], module)
    every = {*HOMES.values()} - OPTIONS
    return next((home for home in every if module == home or module.startswith(f"{home}.")), None)


NAMES = {word: HOMES[cls.__name__] for cls in METHODS for word in (cls.name, cls.__name__)}
"""The home of each method, by the names of the method and its class."""


def checked_types(tree):
    """Yield the types that `isinstance`, `issubclass`, `type(…) is` and `case` check.

    A name of several types, such as a tuple of classes, also yields its members.
    """
    stands_for = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {
            "isinstance",
            "issubclass",
        }:
            operands = [node.args[1]]
        elif isinstance(node, ast.Compare) and any(
            (isinstance(operand, ast.Call) and getattr(operand.func, "id", "") == "type")
            or (isinstance(operand, ast.Attribute) and operand.attr == "__class__")
            for operand in (node.left, *node.comparators)
        ):
            operands = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchClass):
            operands = [node.cls]
        else:
            continue
        for operand in operands:
            yield from ast.walk(operand)
            if isinstance(operand, ast.Name) and operand.id in stands_for:
                yield from ast.walk(stands_for[operand.id])


def compared_names(tree):
    """Yield the names of methods and classes that some name is compared with."""
    for node in ast.walk(tree):
        sides = []
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Match):
            sides = [node.subject, *(case.pattern for case in node.cases)]
        if any(is_name(side) for side in sides):
            words = [
                part.value for side in sides for part in ast.walk(side) if hasattr(part, "value")
            ]
            yield from (word for word in words if isinstance(word, str) and word in NAMES)


def is_name(node):
    """Return whether a node reads a name: `x.name`, `x["name"]` or `x.get("name")`."""
    if isinstance(node, ast.Subscript):
        return getattr(node.slice, "value", None) == "name"
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "get":
        return bool(node.args) and getattr(node.args[0], "value", None) == "name"
    return getattr(node, "attr", "") in {"name", "__name__"}


def imported_from(tree):
    """Return, by local name, the home of an imported method; `bayeslora` for the package itself."""
    origins = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                home = home_of(whole) or home_of(node.module, alias.name)
                is_public = node.module == "bayeslora"
                origins[alias.asname or alias.name] = HOMES.get(alias.name) if is_public else home
        elif isinstance(node, ast.Import):
            for alias in node.names:
                is_package = alias.name == "bayeslora"
                home = alias.name if is_package else home_of(alias.name)
                origins[alias.asname or alias.name] = home
    return origins


def method_checks(source):
    """Return the method classes that some code checks for, with the home of each."""
    tree = ast.parse(source)
    origins = imported_from(tree)
    nodes = [node for node in checked_types(tree) if isinstance(node, ast.Attribute | ast.Name)]
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    names = [ast.unparse(node) for node in nodes if id(node) not in inner]
    homes = {}
    for name in names:
        holder, _, attribute = name.rpartition(".")
        home = origins.get(holder or name)
        homes[name] = HOMES.get(attribute) if home == "bayeslora" else home
    homes |= {word: NAMES[word] for word in compared_names(tree)}
    return {(name, home) for name, home in homes.items() if home}


@pytest.mark.parametrize(
    "source",
    [
        "from bayeslora.posteriors.options import VBLL\nisinstance(x, VBLL | int)",
        "from bayeslora import VBLL\nissubclass(x, (int, VBLL))",
        "from bayeslora import VBLL as Ours\ntype(x) is Ours",
        "import bayeslora.posteriors.last_layer.vbll.head as v\nisinstance(x, v.VBLLHead)",
        "from bayeslora.posteriors.last_layer.vbll import head\nisinstance(x, head.VBLLHead)",
        "from bayeslora import VBLL\nmatch x:\n    case VBLL():\n        pass",
        "import bayeslora as bl\nisinstance(x, bl.VBLL)",
        "from bayeslora import VBLL\nKINDS = (VBLL, int)\nisinstance(x, KINDS)",
        "from bayeslora import VBLL\ntype(x) in (VBLL,)",
        "from bayeslora import VBLL\nx.__class__ is VBLL",
        'type(x).__name__ == "VBLL"',
        'posterior.name == "vbll"',
        'posterior.name in ("vbll", "other")',
        'record.posterior["name"] == "vbll"',
        'record.posterior.get("name") != "vbll"',
        'match posterior.name:\n    case "vbll" | "other":\n        pass',
    ],
)
def test_a_question_for_a_method_is_seen(source):
    (check,) = method_checks(source)
    assert check[1] == "bayeslora.posteriors.last_layer.vbll"


def test_no_method_is_asked_for_by_its_class_outside_its_home():
    root = Path(bayeslora.__file__).parent
    misplaced = []
    for path in sorted(root.rglob("*.py")):
        module = ".".join(["bayeslora", *path.relative_to(root).with_suffix("").parts])
        checks = method_checks(path.read_text(encoding="utf-8"))
        if module not in OPTIONS:
            misplaced += [f"{module}: {name}" for name, home in checks if home != home_of(module)]
    assert misplaced == []


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


def test_import_contracts_hold_for_every_method():
    """They list allowed imports, none of which is a method."""
    contracts = ConfigParser()
    contracts.read(Path(bayeslora.__file__).parents[1] / ".importlinter")
    rooms = {"bayeslora.posteriors.last_layer.*", "bayeslora.posteriors.weights.*"}
    for contract, key, forbidden in (
        ("engine", "forbidden_modules", rooms | {"bayeslora.posteriors.options"}),
        ("methods", "modules", rooms),
        ("adapters", "forbidden_modules", {"bayeslora.adapters.*"}),
    ):
        section = contracts[f"importlinter:contract:{contract}"]
        assert {*section[key].split()} == forbidden
        allowed = {
            line.split(" -> ")[1] for line in section.get("ignore_imports", "").split("\n") if line
        }
        assert not {home_of(module.removesuffix(".*")) for module in allowed} - {None}
    homes = {*HOMES.values()} - OPTIONS
    for home in homes:
        assert any(fnmatch(home, room) for room in ("bayeslora.adapters.*", *rooms))
