"""The rules that hold the packages in shape: who imports whom, what modules say, which words."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
BELOW = {
    "castling": set[str](),
    "space": {"castling"},
    "reports": {"castling", "space"},
    "search": {"castling", "space", "reports"},
}
"""What each package may import besides itself."""
ALIASES = "castling/__init__.py"
"""Names the packages above for type checkers, as `castling.search` and so on are attributes."""
IMPORTS_BY_NAME = "castling/packages.py"
"""The one exception at run time: imports a package above when a user asks for the attribute."""
HOMES = {
    "ray": {"search/execution"},
    "optuna": {"reports", "search"},
    "optuna.samplers": {"search/samplers", "search/study/asking.py"},
}
"""The packages, folders and modules that may import a library."""
NOT_FOR_CONFIGS = {"torch", "timm", "castling.operators", "castling.model"}
"""What configs, being plain data, do not import, not even within functions."""
LONGEST_MODULE = 350
"""Lines of a module of the four packages."""
COUNTERS = ("fvcore", "torch.utils.flop_counter")
"""What counts MACs, and one module alone imports."""
AVOIDED = {
    "util", "utils", "helper", "helpers", "common", "manager", "managers", "misc", "cfg", "hp",
}  # fmt: skip
"""Words that say nothing about what they name."""
SOURCES = sorted(path for package in BELOW for path in (ROOT / package).rglob("*.py"))
NAMED = sorted(
    path
    for folder in (*BELOW, "tests", "benchmarks", "examples")
    for path in (ROOT / folder).rglob("*.py")
)


def imports(tree: ast.AST) -> Iterator[str]:
    """The dotted names that a module imports, anywhere in it, by whatever statement."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield module
            case ast.Attribute(value=ast.Name(id=module), attr=attribute) if module in HOMES:
                yield f"{module}.{attribute}"  # `import optuna` gives optuna.samplers, too


def is_within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def broken_layers(package: str, tree: ast.AST) -> list[str]:
    """The imports that point against the arrow castling <- space <- reports <- search."""
    allowed = {package, *BELOW[package]}
    above = [name for name in BELOW if name not in allowed]
    return [name for name in imports(tree) if any(is_within(name, other) for other in above)]


def foreign_libraries(place: str, tree: ast.AST) -> list[str]:
    """The imports of a module, by its path, of libraries that have their homes elsewhere."""
    return [
        name
        for name in imports(tree)
        for library, homes in HOMES.items()
        if is_within(name, library) and not any(f"{place}/".startswith(f"{h}/") for h in homes)
    ]


def opens_with_one_sentence(docstring: str | None) -> bool:
    """Whether the first line can stand in a file map; details may follow after a blank line."""
    summary, _, rest = (docstring or "").partition("\n")
    return summary.endswith(".") and ". " not in summary and (not rest or rest.startswith("\n"))


def own_names(tree: ast.AST) -> Iterator[str]:
    """The names that a module gives, not those of others that it uses."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name) | ast.arg(arg=name) | ast.alias(asname=str(name)):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


def avoided_words(names: Iterator[str] | list[str]) -> list[str]:
    return [name for name in names if name.strip("_").lower() in AVOIDED]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def run_time_imports(tree: ast.AST) -> Iterator[str]:
    """The dotted names that a module imports at run time, when it is loaded or later."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=others):
                for other in others:
                    yield from run_time_imports(ast.Module(body=[other], type_ignores=[]))
            case ast.Import() | ast.ImportFrom():
                yield from imports(ast.Module(body=[node], type_ignores=[]))
            case _:
                yield from run_time_imports(node)


def import_graph(trees: Mapping[str, ast.AST]) -> dict[str, set[str]]:
    """Which of some modules each imports: the longest name that is one of them."""
    graph: dict[str, set[str]] = {}
    for module, tree in trees.items():
        found = set()
        for name in run_time_imports(tree):
            steps = name.split(".")
            prefixes = [".".join(steps[:length]) for length in range(len(steps), 0, -1)]
            found |= set(next(([name] for name in prefixes if name in trees), []))
        graph[module] = found - {module}
    return graph


def import_circles(trees: Mapping[str, ast.AST]) -> list[str]:
    """One circle of modules that import one another, or nothing."""
    try:
        TopologicalSorter(import_graph(trees)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_every_package_is_walked() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(BELOW)
    assert len(SOURCES) > 30


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_imports_follow_the_arrow(path: Path) -> None:
    broken = broken_layers(path.relative_to(ROOT).parts[0], parsed(path))
    assert broken == (["reports", "search", "space"] if label(path) == ALIASES else [])


def test_packages_above_castling_are_imported_by_name_in_one_module() -> None:
    """The walk above sees literal imports; a name in a string would pass it."""
    above = set(BELOW) - {"castling"}
    naming = {
        label(path)
        for path in SOURCES
        if label(path).startswith("castling/")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Constant) and node.value in above
    }
    assert naming == {ALIASES, IMPORTS_BY_NAME}
    assert not set(run_time_imports(parsed(ROOT / ALIASES))) & above


def test_no_modules_import_one_another_in_a_circle() -> None:
    """Not even by imports within functions, which only put the circle off."""
    assert import_circles({module_name(path): parsed(path) for path in SOURCES}) == []


@pytest.mark.parametrize(
    ("sources", "circle"),
    [
        ({"a": "import a.b", "a.b": "from a import c", "a.c": ""}, []),
        ({"a": "from b import X", "b": "def f():\n    import a"}, ["a", "b", "a"]),
        ({"a": "from b import X", "b": "if TYPE_CHECKING:\n    from a import Y"}, []),
        ({"a": "from b import X", "b": "from a import Y"}, ["a", "b", "a"]),
    ],
)  # fmt: skip
def test_the_walk_sees_circles(sources: dict[str, str], circle: list[str]) -> None:
    trees = {name: ast.parse(source) for name, source in sources.items()}
    assert sorted(set(import_circles(trees))) == sorted(set(circle))


def test_configs_import_neither_operators_nor_models() -> None:
    for path in sorted((ROOT / "castling" / "config").glob("*.py")):
        for name in imports(parsed(path)):
            assert not any(is_within(name, other) for other in NOT_FOR_CONFIGS), (path, name)


def test_no_module_is_long() -> None:
    long = [path for path in SOURCES if len(path.read_text().splitlines()) > LONGEST_MODULE]
    assert long == []


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_ray_and_samplers_appear_only_at_home(path: Path) -> None:
    assert foreign_libraries(label(path), parsed(path)) == []


def test_search_does_use_ray_and_samplers() -> None:
    """Otherwise the rule above would guard nothing."""
    used = {name for path in SOURCES if "search" in path.parts for name in imports(parsed(path))}
    for library in HOMES:
        assert any(is_within(name, library) for name in used)


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_modules_say_in_one_sentence_what_they_are(path: Path) -> None:
    assert opens_with_one_sentence(ast.get_docstring(parsed(path)))


@pytest.mark.parametrize("path", NAMED, ids=label)
def test_names_say_something(path: Path) -> None:
    parts = [Path(part).stem for part in path.relative_to(ROOT).parts]
    words = [word for part in parts for word in part.split("_")]
    assert avoided_words(words) == []
    assert avoided_words(own_names(parsed(path))) == []


@pytest.mark.parametrize(
    ("package", "source", "broken"),
    [
        ("castling", "import space", ["space"]),
        ("castling", "from space.point import Space", ["space.point.Space"]),
        ("castling", "def f():\n    import search.driver", ["search.driver"]),
        ("castling", "from importlib import import_module\nimport_module('space')", ["space"]),
        ("space", "from reports import load", ["reports.load"]),
        ("space", "if TYPE_CHECKING:\n    from search.config import A", ["search.config.A"]),
        ("reports", "import search", ["search"]),
        ("reports", "from space import point\nimport castling.config", []),
        ("search", "import reports, space, castling", []),
        ("space", "import spaceship\nfrom searching import x", []),
    ],
)
def test_the_walk_sees_broken_layers(package: str, source: str, broken: list[str]) -> None:
    assert broken_layers(package, ast.parse(source)) == broken


@pytest.mark.parametrize(
    ("place", "source", "is_foreign"),
    [
        ("reports", "import ray", True),
        ("reports", "from ray import tune", True),
        ("reports", "import optuna.samplers", True),
        ("reports", "from optuna import samplers", True),
        ("reports", "import optuna\noptuna.samplers.TPESampler()", True),
        ("reports", "from optuna.samplers import TPESampler", True),
        ("reports", "import optuna\noptuna.load_study()", False),
        ("reports", "from optuna.storages import RDBStorage", False),
        ("space", "import optuna", True),
        ("castling", "from ray.tune import Stopper", True),
        ("castling", "import raytracing", False),
        ("search", "import ray", True),
        ("search/driver.py", "from optuna.samplers import X", True),
        ("search/execution/tune.py", "from ray.tune import Stopper", False),
        ("search/executioner.py", "from ray.tune import Stopper", True),
        ("search/samplers/sobol.py", "from optuna.samplers import X\nimport optuna", False),
    ],
)
def test_the_walk_sees_foreign_libraries(place: str, source: str, *, is_foreign: bool) -> None:
    assert bool(foreign_libraries(place, ast.parse(source))) is is_foreign


@pytest.mark.parametrize(
    "docstring",
    [None, "", "No full stop", "Two. Sentences.", "A sentence over\ntwo lines.", "One.\nMore."],
)
def test_other_docstrings_are_no_sentence(docstring: str | None) -> None:
    assert not opens_with_one_sentence(docstring)


@pytest.mark.parametrize(
    "source",
    [
        "def helper(): ...",
        "class Manager: ...",
        "cfg = 1",
        "def f(hp): ...",
        "self.misc = 1",
        "import numpy as common",
        "for _util in (): ...",
        "lambda utils: 1",
    ],
)
def test_the_walk_sees_words_that_say_nothing(source: str) -> None:
    assert avoided_words(own_names(ast.parse(source)))


def test_words_of_others_and_longer_names_are_allowed() -> None:
    source = "import other.utils\nother.utils.helper(cfg=1)\ndef context_manager(): ..."
    assert avoided_words(own_names(ast.parse(source))) == []


def loads_torch(module: str) -> bool:
    program = f"import sys, {module}; sys.exit(any(m in sys.modules for m in ('torch', 'ray')))"
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 1


def test_configs_budgets_and_spaces_need_no_torch() -> None:
    light = [
        *("castling.config", "castling.errors", "castling.files"),
        *("castling.metrics", "castling.registry", "castling.sizes"),
    ]
    assert not loads_torch(", ".join(["castling", *light, "space.budget", "space.point"]))


def test_operators_and_their_costs_need_no_torch() -> None:
    assert not loads_torch("castling.operators, castling.blocks.parts, space.operator_table")


def test_models_do_need_torch() -> None:
    """Otherwise the tests above could not fail."""
    assert loads_torch("castling.operators.modules.softmax")


def test_operators_do_not_read_from_outside() -> None:
    door = "castling.untrusted"
    for path in (ROOT / "castling" / "operators").rglob("*.py"):
        assert not [name for name in imports(parsed(path)) if is_within(name, door)], path


def test_macs_are_counted_in_one_module() -> None:
    homes = {
        label(path)
        for path in SOURCES
        if any(is_within(name, counter) for name in imports(parsed(path)) for counter in COUNTERS)
    }
    assert homes == {"castling/costs/count.py"}
