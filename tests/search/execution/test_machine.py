"""A Ray of this machine's own: what it takes from the user's surroundings, and how it ends."""

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import ray
from driver_process import below, start, wait_for_end, wait_for_epochs

import reports
from search.execution import machine
from search.execution.cluster import joined
from search.execution.machine import MARK
from search.execution.refusals import LESS_BUSY, is_busy, refusal


LISTENING = "0A"
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same within IPv6, and ::1, as /proc/net/tcp writes them."""


def ray_processes() -> list[Path]:
    """The folders below /proc of this machine's Ray processes that castling has started."""
    found = []
    for pid in below(os.getpid()):
        place = Path(f"/proc/{pid}")
        with suppress(OSError):  # it has ended since
            if f"{MARK}=".encode() in (place / "environ").read_bytes():
                found.append(place)
    return found


def listening(processes: list[Path]) -> set[str]:
    """The addresses at which processes listen, as /proc/net writes them."""
    sockets = set()
    for place in processes:
        for link in (place / "fd").iterdir():
            with suppress(OSError):  # it is closed since
                sockets.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and fields[9] in sockets:
                addresses.add(fields[1].partition(":")[0])
    return addresses


def test_ray_is_private_ignores_signals_and_imports_nothing_from_the_working_folder(
    ray_session: None,
) -> None:
    @ray.remote
    def surroundings() -> tuple[list[str], str]:
        return sys.path, os.environ["RAY_AUTH_TOKEN_PATH"]

    paths, token = ray.get(surroundings.remote())
    assert str(Path.cwd()) not in {*paths, ""} - {str(machine._HOME), ""}
    assert Path(token).stat().st_mode & 0o077 == 0
    assert Path(token).parent.stat().st_mode & 0o077 == 0
    processes = ray_processes()
    assert len(processes) >= 4
    assert listening(processes)
    assert listening(processes) <= LOOPBACK
    blocked = {1 << number - 1 for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for place in processes:
        lines = (place / "status").read_text().splitlines()
        mask = int(next(line for line in lines if line.startswith("SigBlk")).split()[1], 16)
        assert all(mask & number for number in blocked), (place / "cmdline").read_text()


def test_a_search_needs_nothing_of_its_surroundings_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    work, long = tmp_path / "work", tmp_path / ("x" * 90)
    long.mkdir()
    work.mkdir()
    for name in ("search", "space", "reports", "castling", "json", "random", "queue", "torch"):
        (work / f"{name}.py").write_text(f"raise SystemExit('the file {name}.py was run')\n")
    unusual = {
        "TMPDIR": str(long),
        "RAY_TMPDIR": "/dev/null/none",
        "HOME": str(tmp_path / "no home"),
        "RAY_AUTH_MODE": "disabled",
        "RAY_RUNTIME_ENV_HOOK": "no_such_module.hook",
        "SLURM_RESTART_COUNT": "1",
        "PYTHONPATH": str(machine._HOME),
    }
    command = [sys.executable, "-P", "-m", "search", "search", "smoke", "--out", "run"]
    done = subprocess.run(
        [*command, "--trials", "1", "--workers", "1", "--set", "train.epochs=1"],
        cwd=work,
        env={**os.environ, **unusual},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(reports.load(work / "run").state) == ["trained"]
    assert {path.name for path in tmp_path.iterdir()} == {"work", long.name}
    assert {path.name for path in long.iterdir()} <= {f"castling-{os.getuid()}"}  # caches


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_all_processes_ends_a_search_in_order(
    how: signal.Signals, tmp_path: Path
) -> None:
    run = tmp_path / "a run"
    options = ["smoke", "--trials", "2", "--workers", "2", "--set", "train.epochs=400"]
    with start(run, *options) as driver:
        wait_for_epochs(run, 4)
        started = below(driver.pid)
        signalled = time.monotonic()
        for pid in [driver.pid, *started]:
            os.kill(pid, how)
        _, message = driver.communicate(timeout=60)
        seconds = time.monotonic() - signalled
    assert driver.returncode == 130, message
    assert message.splitlines()[-1].startswith("interrupted; go on with: castling search --out '")
    assert "Traceback" not in message
    assert seconds <= 20
    wait_for_end(started, 5)
    assert set(reports.load(run).state) == {"running"}


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1.0, 4.0, 7.0])
def test_a_signal_while_ray_starts_ends_quietly(seconds: float, tmp_path: Path) -> None:
    with start(tmp_path / "run", "smoke", "--trials", "1", "--workers", "1") as driver:
        time.sleep(seconds)
        started = below(driver.pid)
        os.killpg(driver.pid, signal.SIGINT)
        _, message = driver.communicate(timeout=60)
    assert driver.returncode == 130, message
    assert "Traceback" not in message
    wait_for_end(started, 5)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (
            OSError(errno.ENOSPC, "No space left", "/scratch/x"),
            "make room in /scratch/x",
        ),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (MemoryError(), "free some memory"),
        (RuntimeError("bind: Cannot assign requested address"), "loopback"),
        (PermissionError(errno.EACCES, "Permission denied", "/opt/ray"), "write /opt/ray"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), "UTF-8"),
        (Exception("The current node timed out during startup."), LESS_BUSY),
    ],
)
def test_each_cause_has_its_own_remedy(error: Exception, remedy: str) -> None:
    text = str(refusal(error, Path("/tmp/folder")))
    assert remedy in text
    assert is_busy(error) == (remedy == LESS_BUSY)
    assert (LESS_BUSY in text) == (remedy == LESS_BUSY)


def test_a_start_that_took_too_long_is_tried_a_second_time(
    no_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, init = [], ray.init

    def busy_at_first(**options: object) -> None:
        starts.append(options)
        if len(starts) == 1:
            raise Exception("The current node timed out during startup.")  # noqa: TRY002 - Ray's
        init(**options)

    monkeypatch.setattr(ray, "init", busy_at_first)
    with joined(None, at_least=2) as cluster:
        assert cluster["CPU"] >= 2
    assert len(starts) == 2
    assert not ray.is_initialized()
    assert not ray_processes()


def test_logs_of_ended_sessions_are_removed_after_a_week(tmp_path: Path) -> None:
    ended, living = 2**22 + 1, os.getpid()
    names = [f"session_2026-01-0{day}_{pid}" for day, pid in ((1, ended), (2, living), (3, ended))]
    for name in names:
        (tmp_path / name / "logs").mkdir(parents=True)
    for name in names[:2]:
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / "session_latest").symlink_to(tmp_path / names[0])
    machine._remove_old_sessions(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("session_2*")) == names[1:]
