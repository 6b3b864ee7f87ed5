"""The frame: documents that tell the truth, pins that hold, and who may import whom."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
OURS = ("tinygptv_core", "tasks", "flows", "data_recipes", "benchmarks")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

# What is none of the core's business, and what takes so long to import that `tinygptv plan` may not.
PIPELINE = ("prefect", "ray", "mlflow", "pyarrow", "img2dataset", "deepspeed")
HEAVY = (*PIPELINE, "torch", "transformers", "peft", "webdataset", "numpy", "PIL", "pandas", "matplotlib", "jinja2")

# A path below one of the tree's folders, as prose and commands write it.
NAMED_PATH = re.compile(
    r"(?<![\w/.])(?:flows|tasks|tinygptv_core|data_recipes|benchmarks|deployments|docs|tests|\.ci)/[\w./-]*[\w/]"
)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)[^)]*\)")


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> Iterator[str]:
    """The top-level names of everything that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def requirements(*extras: str) -> list[Requirement]:
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    return [Requirement(line) for lines in lists for line in lines]


def pins() -> dict[str, str]:
    """Package -> the version it is held to."""
    lines = (ROOT / "deployments" / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): pinned for name, pinned in pairs}


def python(program: str) -> str:
    """What `program` prints in a Python of its own."""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_path_that_a_document_names_exists(document):
    text = document.read_text()
    named = [ROOT / path for path in NAMED_PATH.findall(text) if "NAME" not in path]
    linked = [document.parent / path for path in LINK.findall(text)]
    assert [str(path) for path in [*named, *linked] if not path.exists()] == []


def test_a_missing_path_would_be_noticed():
    text = "see `tasks/none.py`, [this](adr/none.md) and https://example.org/tasks/none.py; copy data_recipes/NAME.py."
    assert NAMED_PATH.findall(text) == ["tasks/none.py", "data_recipes/NAME.py"]
    assert LINK.findall(text) == ["adr/none.md"]


def test_sources_and_documents_are_plain_ascii():
    templates = [*(ROOT / "tasks" / "reporting" / "templates").glob("*"), ROOT / "Makefile", ROOT / "pyproject.toml"]
    files = [*sources(*OURS, "tests"), *DOCUMENTS, *templates]
    assert [str(path.relative_to(ROOT)) for path in files if not path.read_bytes().isascii()] == []


def test_the_changelog_speaks_of_this_version():
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_dependency_is_pinned_to_a_version_that_it_allows():
    pinned = pins()
    for requirement in requirements(*PROJECT["optional-dependencies"]):
        held = pinned.get(canonicalize_name(requirement.name))
        assert held is not None, f"{requirement.name} is not in deployments/constraints.txt"
        assert requirement.specifier.contains(held), f"{requirement} does not allow the pinned {held}"


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="an environment of one's own may have other versions")
def test_what_is_installed_by_make_is_what_is_pinned():
    found = {}
    for name in pins():
        try:
            found[name] = version(name).split("+")[0]  # torch says which build it is after a plus
        except PackageNotFoundError:
            continue  # needed on other versions of Python, or removed on purpose (dataclasses)
    assert found == {name: pinned for name, pinned in pins().items() if name in found}
    assert "torch" in found and "dataclasses" not in found


@pytest.mark.parametrize(
    ("folders", "extras"),
    [
        (("tinygptv_core", "data_recipes"), ("fast", "low-resource")),
        (OURS, ("pipeline", "fast", "low-resource", "postgres", "s3")),
        (("tests",), ("pipeline", "fast", "low-resource", "postgres", "s3", "test", "test-deployments")),
    ],
)
def test_whatever_is_imported_is_declared(folders, extras):
    declared = {canonicalize_name(requirement.name) for requirement in requirements(*extras)}
    if "test" in extras:
        declared.add("packaging")  # pytest's own
    of = packages_distributions()
    undeclared = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources(*folders)
        for name in imported(path)
        if name in of and name not in OURS
        if not declared & {canonicalize_name(distribution) for distribution in of[name]}
    }
    assert undeclared == set()


def test_the_cores_tests_need_nothing_but_the_core():
    forbidden = {*PIPELINE, "tasks", "flows", "jinja2", "matplotlib", "rich", "psutil"}
    used = {str(path.relative_to(ROOT)): forbidden & set(imported(path)) for path in sources("tests/core")}
    assert {path: names for path, names in used.items() if names} == {}


def test_the_core_imports_without_orchestrator_cluster_and_registry():
    program = f"""
import importlib, pkgutil, sys
for name in {PIPELINE!r}:
    sys.modules[name] = None  # whoever imports it gets an ImportError
import tinygptv_core
names = [module.name for module in pkgutil.walk_packages(tinygptv_core.__path__, "tinygptv_core.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    assert int(python(program)) > 8


def test_planning_imports_nothing_heavy():
    found = python(f"import sys, flows.cli; print(*[name for name in {HEAVY!r} if name in sys.modules])")
    assert found.split() == []


def test_the_core_is_not_a_step_away_from_the_tasks():
    """The contract of import-linter, for those who run the tests alone."""
    above = {"flows", "tasks", "data_recipes"}
    used = {str(path.relative_to(ROOT)): above & set(imported(path)) for path in sources("tinygptv_core")}
    assert {path: names for path, names in used.items() if names} == {}
