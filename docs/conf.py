"""Sphinx configuration: `make docs` builds the site in docs/_build/html, without network.

The source directory is the repository, so that links from pages to reports work in both.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from docutils import nodes
from furo.navigation import get_navigation_tree
from numpy.typing import ArrayLike
from sphinx import addnodes
from sphinx.util.typing import stringify_annotation

import bayeslora

sys.path.insert(0, str(Path(__file__).parent))

project = "bayeslora"
author = "The bayeslora developers"
project_copyright = author
release = bayeslora.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "directives",
]
source_suffix = {".md": "myst-nb"}
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "reports/README.md",
    "reports/*/**",
    "benchmarks/README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]
exclude_patterns = ["docs/_build", "reports/demo"]
html_theme = "furo"
html_title = "bayeslora"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
highlight_language = "text"
pygments_style = "friendly"
pygments_dark_style = "monokai"

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "cache"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_output_stderr = "remove"
nb_merge_streams = True  # `%%bash` sends its output in pieces

autodoc_default_options = {
    "members": True,
    "exclude-members": "set_fit_request, set_predict_request, set_score_request",  # sklearn's
}
autoclass_content = "both"  # arguments of a constructor are described in its own docstring
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
# Single backticks in docstrings are code.
default_role = "code"
napoleon_google_docstring = True
napoleon_use_ivar = True

nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!bayeslora).*"),  # inventories of other libraries would need the network
    ("myst", r"bayeslora\.\w+"),  # a class on an API page is not a heading
]


def _public_names() -> dict[str, str]:
    """Return the documented name of each public class by its qualified name."""
    names = {}
    for name in bayeslora.__all__:
        item = getattr(bayeslora, name)
        module = getattr(item, "__module__", None)
        if module is not None:
            names[f"{module}.{item.__qualname__}"] = f"bayeslora.{name}"
    return names


def _resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Link a name to its public name, and leave private names without a link."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("bayeslora."):
        return None
    public = app.bayeslora_names.get(target)
    if public is None:
        owner, _, _ = target.rpartition(".")
        return content if _is_private(owner) else None
    domain = env.get_domain("py")
    builder = app.builder
    return domain.resolve_xref(env, node["refdoc"], builder, "obj", public, node, content)


def _is_private(owner: str) -> bool:
    """Whether a private module of ours contains a name, which then exists without documentation."""
    try:
        import_module(owner)
    except ImportError:
        return False
    return owner != "bayeslora"


_ARRAY = re.compile(r"~?numpy\.ndarray\[tuple\[[^]]*\], ~?numpy\.dtype\[~?(?:numpy\.)?([\w.]+)\]\]")

_ARRAY_LIKE = stringify_annotation(ArrayLike, "smart")

_LONG = re.compile(r"(?<![~.\w])(collections\.abc\.\w)")


def _short(annotation: str) -> str:
    """Return a type as the source writes it: `NDArray[float64]`, `ArrayLike`."""
    arrays = _ARRAY.sub(lambda array: f"~numpy.typing.NDArray[~numpy.{array[1]}]", annotation)
    return _LONG.sub(r"~\1", arrays.replace(_ARRAY_LIKE, "~numpy.typing.ArrayLike"))


def _shorten_types(app: Any, _: str, name: str, item: Any, *_rest: Any) -> None:
    """Shorten the types of arguments in the description, without the bounds of `Annotated`."""
    types = app.env.current_document.autodoc_annotations.get(name, {})
    try:
        hints = get_type_hints(item.__init__ if isinstance(item, type) else item)
    except (NameError, TypeError):  # imported only for type checking; not a function
        hints = {}
    for key in [*types]:
        if key in hints:
            types[key] = stringify_annotation(hints[key], "smart")
        types[key] = _short(types[key])
        if key == "return" and types[key] in ("None", "~types.NoneType"):
            del types[key]


def _shorten_attributes(*arguments: Any) -> None:
    """Shorten the types of attributes, which napoleon adds."""
    lines = arguments[-1]
    lines[:] = [_short(line) if line.startswith(":vartype") else line for line in lines]


def _skip_values(_: Any, what: str, _name: str, item: Any, *_rest: Any) -> bool | None:
    """Skip fields with docstrings, which the class lists among its attributes."""
    return True if what == "class" and not hasattr(item, "__get__") else None


def _open_pages(app: Any, doctree: Any, docname: str) -> None:
    """Open linked HTML files, such as reports, in the browser: MyST makes them downloads."""
    if app.builder.name != "html":
        return
    for node in [*doctree.findall(addnodes.download_reference)]:
        path, source = app.env.relfn2path(node["reftarget"], docname)
        if path.endswith(".html"):
            copy = Path(app.outdir) / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            address = Path(os.path.relpath(path, Path(docname).parent)).as_posix()
            node.replace_self(nodes.reference("", "", *node.children, refuri=address))


def _short_navigation(_: Any, _page: str, _template: str, context: Any, *_rest: Any) -> None:
    """List the pages of the first level, and those just below the current one, in the sidebar."""
    if "toctree" in context:
        tree = context["toctree"](collapse=True, titles_only=True, maxdepth=2, includehidden=True)
        context["furo_navigation_tree"] = get_navigation_tree(tree)


def _redirect(app: Any, exception: Exception | None) -> None:
    """Redirect the root of the site to its first page."""
    if exception is None and app.builder.name == "html":
        page = '<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html">'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def setup(app: Any) -> None:
    """Connect the handlers, and resolve references to public classes by their public names."""
    app.bayeslora_names = _public_names()
    app.connect("missing-reference", _resolve)
    app.connect("autodoc-skip-member", _skip_values)
    app.connect("autodoc-process-signature", _shorten_types)
    app.connect("autodoc-process-docstring", _shorten_attributes, priority=900)
    app.connect("doctree-resolved", _open_pages)
    app.connect("html-page-context", _short_navigation, priority=900)  # after the theme
    app.connect("build-finished", _redirect)
