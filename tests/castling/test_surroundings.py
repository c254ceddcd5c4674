"""Users without a name or a home, as containers have them: a real one where this is root."""

import getpass
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from castling.kernels import cache
from castling.surroundings import CACHES, cache_home, complete_environment


UNKNOWN = 54_321
"""A user's number that no password database has."""


def as_unknown_user(check: Callable[[], None]) -> None:
    """Run a check in a forked process as a user without a name, a home or variables of both."""
    child = os.fork()
    if child == 0:
        try:
            os.setgid(UNKNOWN)
            os.setuid(UNKNOWN)
            for name in ("HOME", "USER", "LOGNAME", "USERNAME", "LNAME", "XDG_CACHE_HOME"):
                os.environ.pop(name, None)
            check()
        except BaseException:  # noqa: BLE001 - shown by the parent's failure
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root becomes another user")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_an_unknown_user_without_home_gets_a_name_a_home_and_caches() -> None:
    def check() -> None:
        assert cache_home() is None
        assert os.access(cache.folder(), os.W_OK)  # kernels are compiled
        complete_environment()
        assert getpass.getuser() == f"uid{UNKNOWN}"
        home = Path.home()
        assert home.stat().st_uid == UNKNOWN
        assert home.stat().st_mode & 0o077 == 0
        assert cache.folder() == home / ".cache" / "castling"

    as_unknown_user(check)


@pytest.mark.parametrize("home", ["/proc", "absent"])
def test_caches_go_elsewhere_where_a_home_cannot_be_written(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / home))
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    for name in CACHES:
        if name != "TRITON_CACHE_DIR":
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    complete_environment()
    own = f"castling-{os.getuid()}"
    assert os.environ["HOME"] == "/proc" if home == "/proc" else own in os.environ["HOME"]
    assert not (tmp_path / "absent").exists()
    assert os.environ["TRITON_CACHE_DIR"] == "/mine"
    assert own in os.environ["TORCHINDUCTOR_CACHE_DIR"]
    assert os.access(cache.folder(), os.W_OK)


def test_a_usual_home_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    before = dict(os.environ)
    complete_environment()
    assert dict(os.environ) == before
