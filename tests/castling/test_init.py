import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import castling


def imported_by(statement: str, folder: Path) -> set[str]:
    """Return the modules in memory after a statement in a fresh interpreter, run in a folder."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_configs_cost_no_import_of_torch(tmp_path: Path) -> None:
    statement = "import castling, castling.config, castling.errors, castling.files"
    modules = imported_by(statement, tmp_path)
    assert "castling.config" in modules
    assert not {"torch", "timm", "ray", "optuna", "sklearn"} & modules


def test_the_import_check_can_fail(tmp_path: Path) -> None:
    (tmp_path / "torch.py").touch()  # a stand-in: the real one takes seconds
    assert "torch" in imported_by("import castling, torch", tmp_path)


def test_the_public_names_exist_and_others_do_not() -> None:
    for name in castling.__all__:
        found = getattr(castling, name)
        assert callable(found) != isinstance(found, ModuleType), name
    assert castling.castle_backbone is castling.convert_backbone
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        castling.biuld  # noqa: B018 - the access itself must fail
