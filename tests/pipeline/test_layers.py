"""Who may import whom: read from the source, every import counted, also those inside functions.

The packages of `pipeline` stand in `pipeline.PACKAGES`, bottom to top: each imports only those
before it. What breaks a rule is named by file and line.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import PACKAGES

ROOT = Path(__file__).resolve().parents[2]

PRODUCT = ("pipeline", "actors", "jobs", "cluster")

# `actors`, bottom to top; those that share a level do not import each other.
ACTORS = (
    ("supervision",),
    ("model",),
    ("generation", "training", "grading", "reference"),
    ("scoring", "stages"),
)

MOST_MODULES = 14

MOST_COMMANDS = 20


@dataclass(frozen=True)
class Import:
    """One import of a module of ours. importer, imported: dotted names of modules."""

    importer: str
    imported: str
    line: int
    typing_only: bool = False

    def __str__(self) -> str:
        return f"{self.importer} line {self.line} imports {self.imported}"


def modules_of(root: Path, *packages: str) -> dict[str, Path]:
    """Every module below some packages, by dotted name; a package goes by its own name."""
    found = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _typing_only(tree: ast.AST) -> set[ast.AST]:
    """What stands below `if TYPE_CHECKING:`."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }


def imports(modules: dict[str, Path], known: Iterable[str] = ()) -> list[Import]:
    """What these modules import of each other, and of other modules that are `known`."""
    ours = {*modules, *known}
    found = []
    for name, path in modules.items():
        tree = ast.parse(path.read_text("utf-8"))
        typing_only = _typing_only(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.module, f"{name} line {node.lineno}: a relative import"
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                # `from package import module` imports the module; of a module, what is in it
                names = [one for one in names[1:] if one in ours] or names[:1]
            else:
                continue
            found += [
                Import(name, one, node.lineno, node in typing_only) for one in names if one in ours
            ]
    return [one for one in found if one.importer != one.imported]


def part(module: str) -> str:
    """The package of `pipeline`, `actors` or `jobs` that a module belongs to, or is."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def upward(edges: Iterable[Import], level: Callable[[str], int]) -> list[str]:
    """The imports of a package that is not below the importer's."""
    return [
        str(edge)
        for edge in edges
        if part(edge.importer) != part(edge.imported)
        if level(part(edge.importer)) <= level(part(edge.imported))
    ]


def circles(edges: Iterable[Import]) -> list[str]:
    """The imports that lie on a circle of modules; typing-only imports count."""
    targets: dict[str, set[str]] = defaultdict(set)
    edges = list(edges)
    for edge in edges:
        targets[edge.importer].add(edge.imported)

    def reached(start: str) -> set[str]:
        seen, todo = set[str](), [start]
        while todo:
            for target in targets[todo.pop()] - seen:
                seen.add(target)
                todo.append(target)
        return seen

    reach = {name: reached(name) for name in list(targets)}
    return [str(edge) for edge in edges if edge.importer in reach.get(edge.imported, ())]


@pytest.fixture(scope="module")
def edges() -> list[Import]:
    return imports(modules_of(ROOT, *PRODUCT), modules_of(ROOT, "tests"))


def within(edges: Iterable[Import], package: str) -> Iterator[Import]:
    """The imports inside a top package, of parts of it other than its own `__init__`."""
    start = f"{package}."
    return (e for e in edges if e.importer.startswith(start) and e.imported.startswith(start))


def test_every_package_of_pipeline_is_in_the_list() -> None:
    found = {part(name) for name in modules_of(ROOT, "pipeline")} - {""}
    assert found == set(PACKAGES)
    assert len(PACKAGES) == len(set(PACKAGES))


def test_no_package_of_pipeline_imports_one_above_it(edges: list[Import]) -> None:
    assert upward(within(edges, "pipeline"), PACKAGES.index) == []


def test_no_package_of_actors_imports_one_beside_or_above_it(edges: list[Import]) -> None:
    level = {name: height for height, row in enumerate(ACTORS) for name in row}
    assert upward(within(edges, "actors"), level.__getitem__) == []


def test_jobs_import_actors_and_actors_import_pipeline(edges: list[Import]) -> None:
    allowed = {"pipeline": (), "actors": ("pipeline",), "jobs": ("actors", "pipeline", "cluster")}
    wrong = [
        str(edge)
        for edge in edges
        if (importer := edge.importer.split(".")[0]) in allowed
        if (imported := edge.imported.split(".")[0]) != importer
        if imported not in allowed[importer]
    ]
    wrong += [
        str(edge)
        for edge in edges
        if edge.importer.startswith("cluster")
        if not edge.imported.startswith(("cluster", "pipeline.errors"))
    ]
    assert wrong == []


def test_commands_stand_on_the_runtime(edges: list[Import]) -> None:
    """`jobs/runtime` imports no command."""
    wrong = [
        str(edge)
        for edge in within(edges, "jobs")
        if part(edge.importer) == "runtime" and part(edge.imported) not in ("runtime", "")
    ]
    assert wrong == []


def test_no_product_file_imports_a_test(edges: list[Import]) -> None:
    assert [str(edge) for edge in edges if edge.imported.split(".")[0] == "tests"] == []


def test_no_test_imports_another_test() -> None:
    """What they share lies in `tests/support`."""
    found = imports(modules_of(ROOT, "tests"))
    wrong = [str(one) for one in found if one.imported.rpartition(".")[2].startswith("test_")]
    assert wrong == []


def test_modules_import_in_no_circle(edges: list[Import]) -> None:
    """Not inside a function, nor for types only: two modules that hold each other are one."""
    assert circles(edges) == []


def test_no_folder_is_a_store_room() -> None:
    counts = Counter(
        path.parent.relative_to(ROOT)
        for path in modules_of(ROOT, "pipeline", "actors").values()
        if path.name != "__init__.py"
    )
    assert {str(at): n for at, n in counts.items() if n > MOST_MODULES} == {}
    commands = [path for path in (ROOT / "jobs").glob("*.py") if path.name != "__init__.py"]
    assert len(commands) <= MOST_COMMANDS


# --- the checks themselves ----------------------------------------------------------------------


def tree(folder: Path, files: dict[str, str]) -> dict[str, Path]:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    return modules_of(folder, "house")


def test_the_line_that_breaks_a_rule_is_named(tmp_path: Path) -> None:
    modules = tree(
        tmp_path,
        {
            "house/low/a.py": "def f():\n    from house.high.b import g\n    return g\n",
            "house/high/b.py": "import json\nfrom house.low import c\n",
            "house/low/c.py": "",
        },
    )
    found = imports(modules)
    assert upward(found, ("low", "high").index) == ["house.low.a line 2 imports house.high.b"]
    assert circles(found) == []


def test_a_circle_is_found_wherever_its_imports_stand(tmp_path: Path) -> None:
    modules = tree(
        tmp_path,
        {
            "house/a.py": "from house.b import B\n",
            "house/b.py": "def f():\n    import house.c\n",
            "house/c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
            "    from house.a import A\n",
            "house/d.py": "import house.a\n",
        },
    )
    assert circles(imports(modules)) == [
        "house.a line 1 imports house.b",
        "house.b line 2 imports house.c",
        "house.c line 3 imports house.a",
    ]
