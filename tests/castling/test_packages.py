"""castling.search, .reports and .space are castling's own, whatever the folder holds."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from castling.packages import PackageFunction


ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder with files of the names of castling's packages."""
    (tmp_path / "reports").mkdir()
    for name in ("search.py", "space.py", "reports/__init__.py"):
        (tmp_path / name).write_text("MINE = True\n")
    return tmp_path


def python(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program as `python FILE` does: its folder comes first on `sys.path`."""
    program = f"import sys; sys.path[1:1] = [{str(ROOT)!r}]\n{program}"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "lines",
    [
        ["castling.reports.load", "castling.search.run", "castling.space.point"],
        ["castling.search.run", "castling.space.point", "castling.reports.load"],
    ],
)
def test_files_of_the_same_names_do_not_hide_them(lines: list[str], project: Path) -> None:
    program = "\n".join(["import castling", "import castling.config", *lines])
    program = program.replace("castling.space.point", "from castling import space; space.__path__")
    done = python(program, project)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_module_of_the_user_that_came_first_is_named(project: Path) -> None:
    program = "import castling, reports\nassert reports.MINE\ncastling.search.run"
    done = python(program, project)
    message = done.stderr.splitlines()[-1]
    assert message == (
        f"ImportError: castling.reports must be castling's package, but "
        f"{project / 'reports' / '__init__.py'} was imported as reports; "
        "rename it, or import castling.reports before it"
    )


def test_a_folder_without_init_that_came_first_is_named(tmp_path: Path) -> None:
    program = "import castling\nmodule = type(sys)('space'); module.__path__ = ['mine/space']\n"
    program += "sys.modules['space'] = module\ncastling.space"
    assert "but mine/space was imported as space" in python(program, tmp_path).stderr


def test_they_are_the_packages_that_a_plain_import_finds(tmp_path: Path) -> None:
    program = "import castling\nassert not {'space', 'reports', 'search'} & set(sys.modules)\n"
    program += "import reports, space\nassert castling.reports is reports\n"
    program += "assert castling.space is space\nassert castling.search.__name__ == 'search'"
    done = python(program, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_process_calls_a_function_of_castlings(project: Path) -> None:
    function = PackageFunction("search.objectives", "reference_point")
    program = f"import pickle\nf = pickle.loads({pickle.dumps(function)!r})\ntry: f()\n"
    program += "except TypeError as error: print(error)\nprint(sys.modules['search.objectives'])"
    done = python(program, project)
    assert "reference_point() missing" in done.stdout, done.stderr
    assert str(ROOT / "search" / "objectives.py") in done.stdout


@pytest.mark.slow
def test_a_search_runs_where_files_have_the_names_of_packages(project: Path) -> None:
    """Ray puts the working directory first on the `sys.path` of its workers."""
    program = "import castling\ncastling.search.run('smoke', out='run', trials=1)\n"
    program += "print(castling.reports.load('run').state.tolist())"
    done = python(program, project)
    assert done.stdout.splitlines()[-1] == "['trained']", done.stderr
