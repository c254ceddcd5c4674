"""A Ray of this machine alone, which depends on nothing of the user's surroundings.

It listens on the loopback only, with a token of its own, and takes neither the working folder nor
the home folder of the user. Its processes ignore the signals that a terminal or a batch system
sends to all processes of a job: the driver ends them in order.
"""

import logging
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray.job_config import JobConfig

from castling.errors import ClusterError
from castling.scratch import scratch_folder
from castling.signals import SIGNALS
from search.execution.refusals import is_busy, refusal


SOCKET_NAME = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1"
"""The longest socket of Ray in its folder."""
KEPT_DAYS = 7
"""How long the logs of a Ray that has ended are kept."""
INTERRUPTED_START_S = 8.0
"""How long Ray may go on starting after Ctrl-C, before its processes are killed."""
LEAVE_S = 5.0
"""How long the end of a killed process may take."""
MARK = "CASTLING_RAY"
"""Environment variable that only the processes of one local Ray have."""
PATIENCE = {
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_gcs_rpc_server_connect_timeout_s": "60",
}
"""Limits of Ray for the start of its parts, which a busy machine exceeds by default."""

_HOME = Path(__file__).resolve().parents[2]


@contextmanager
def local_ray(num_cpus: int) -> Iterator[None]:
    """Start Ray on this machine for a with-block, and leave no process of it behind.

    Args:
        num_cpus: CPUs that it offers.

    Raises:
        ClusterError: when it does not start, with cause and remedy.
        KeyboardInterrupt: when a signal arrives meanwhile.
    """
    try:
        folder = scratch_folder("RAY_TMPDIR", socket_name=SOCKET_NAME)
    except OSError as error:
        remedy = "set TMPDIR to a folder with a short path that you can write and that has room"
        raise ClusterError(str(error), remedy) from None
    sessions = folder / "ray"  # Ray lets everybody write its folder, but nobody gets there
    _remove_old_sessions(sessions)
    with ExitStack() as stack:
        token = _token_file(folder)
        stack.callback(token.unlink, missing_ok=True)
        stack.callback(_forget_token)
        stack.enter_context(
            _environment(
                {
                    "RAY_AUTH_MODE": None,  # Ray then asks for the token
                    "RAY_AUTH_TOKEN": None,
                    "RAY_AUTH_TOKEN_PATH": str(token),
                    "RAY_TMPDIR": str(folder),  # for what does not fit in shared memory
                }
            )
        )
        _forget_token()
        yield from _started(sessions, num_cpus)


def _started(folder: Path, num_cpus: int) -> Iterator[None]:
    """Yield once Ray runs; a start that failed on a busy machine is tried again."""
    for is_last in (False, True):
        keeper = _Keeper(folder, num_cpus)
        try:
            keeper.start()
        except Exception as error:  # noqa: BLE001 - a bare one, where Ray does not start in time
            keeper.end()
            if is_last or not is_busy(error):
                raise refusal(error, folder) from None
            continue
        except BaseException:
            keeper.end()
            raise
        try:
            yield
        finally:
            keeper.end()
        return


class _Keeper:
    """Starts Ray in a thread of its own, which lives as long as Ray does.

    Its processes inherit the thread's blocked signals; the main thread takes signals meanwhile.
    Linux kills the processes when the thread that started them ends.
    """

    def __init__(self, folder: Path, num_cpus: int) -> None:
        self._folder, self._num_cpus = folder, num_cpus
        self._mark = secrets.token_hex(8)
        self._is_started, self._is_over = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._keep, name="castling-ray", daemon=True)

    def start(self) -> None:
        """Return once Ray runs; raise what it raises."""
        with _environment({**_patience(), MARK: self._mark}), _private_settings():
            self._thread.start()
            try:
                self._wait()
            except BaseException:  # a signal
                self._is_started.wait(INTERRUPTED_START_S)
                raise
        if self._error is not None:
            raise self._error

    def _wait(self) -> None:
        while not self._is_started.wait(0.2):
            pass

    def end(self) -> None:
        """End Ray and all of its processes."""
        known = _processes(self._mark)
        if self._is_started.is_set():
            ray.shutdown()
        deadline = time.monotonic() + LEAVE_S
        while time.monotonic() < deadline:
            known |= _processes(self._mark)
            left = known.items() & {pid: begun for pid, (_, begun) in _running().items()}.items()
            if not left:
                break
            for pid, _ in left:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        self._is_over.set()
        self._thread.join(LEAVE_S)

    def _keep(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            ray.init(
                address="local",
                num_cpus=self._num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                job_config=_OwnPaths(),
                _temp_dir=str(self._folder),
                _node_ip_address="127.0.0.1",
                _skip_env_hook=True,
            )
            _end_at_once()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            self._error = error
        finally:
            self._is_started.set()
        self._is_over.wait()


def _end_at_once() -> None:
    """Let Ray kill its processes, which ignore SIGTERM, without waiting a second for each."""
    node: Any = getattr(ray._private.worker, "_global_node", None)  # noqa: SLF001 - nothing public
    kill = getattr(node, "kill_all_processes", None)
    if kill is not None:
        node.kill_all_processes = lambda **_: kill(check_alive=False, allow_graceful=False)


class _OwnPaths(JobConfig):
    """A job whose workers import castling, and no files of the folder where the user works."""

    def __init__(self) -> None:
        super().__init__()
        # Ray puts these before all others
        self._py_driver_sys_path.extend(_import_folders())

    def _runtime_env_has_working_dir(self) -> bool:
        """Say yes, so that Ray leaves the working folder out of the workers' paths."""
        return True


def _import_folders() -> list[str]:
    """Return the folders that workers need: castling's, if not installed, and of a script."""
    folders = [] if _HOME.name.endswith("-packages") else [str(_HOME)]
    main = sys.modules.get("__main__")
    script = getattr(main, "__file__", None)
    if script is not None and getattr(main, "__spec__", None) is None:
        folder = str(Path(script).resolve().parent)
        if folder in sys.path and Path(sys.prefix) not in Path(folder).parents:
            folders.insert(0, folder)
    return folders


def _patience() -> dict[str, str]:
    return {name: os.environ.get(name, value) for name, value in PATIENCE.items()}


@contextmanager
def _environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables for a with-block; None removes one."""
    earlier = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(earlier)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _private_settings() -> Iterator[None]:
    """Set what Ray has read from the environment when it was imported.

    Without clusters Ray uses the loopback; and `uv run` is not to upload the working folder.
    """
    settings: dict[str, Any] = {
        "ENABLE_RAY_CLUSTER": False,
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": False,
    }
    earlier = {name: getattr(ray_constants, name, None) for name in settings}
    vars(ray_constants).update(settings)
    try:
        yield
    finally:
        vars(ray_constants).update(earlier)


def _token_file(folder: Path) -> Path:
    """Write a new token to a file that only this user can read."""
    handle, path = tempfile.mkstemp(prefix="token-", dir=folder)
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
    return Path(path)


def _forget_token() -> None:
    """Let Ray read the token anew: it keeps the one of an earlier start."""
    loader: Any = getattr(ray._raylet, "AuthenticationTokenLoader", None)  # noqa: SLF001 - nor here
    if loader is not None:
        loader.instance().reset_cache()


def _processes(mark: str) -> dict[int, int]:
    """Return the processes of a local Ray, and when each began.

    They have the mark in their environment, or were started by one that has: the title that Ray
    gives to workers and agents takes the place of their environment.
    """
    running, found = _running(), set()
    for pid in running:
        with suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            if pid != os.getpid() and f"{MARK}={mark}".encode() in environment:
                found.add(pid)
    while more := {pid for pid, (parent, _) in running.items() if parent in found} - found:
        found |= more
    return {pid: running[pid][1] for pid in found}


def _running() -> dict[int, tuple[int, int]]:
    """Return the number of every process, that of its parent, and when it began."""
    running = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # after the name, which may hold anything: state, parent, ..., begin
            fields = (entry / "stat").read_text(errors="replace").rpartition(") ")[2].split()
            if fields[0] != "Z":
                running[int(entry.name)] = (int(fields[1]), int(fields[19]))
    return running


def _remove_old_sessions(folder: Path) -> None:
    """Remove the logs of what ended long ago."""
    for session in folder.glob("session_*"):
        ended = re.fullmatch(r"session_.*_(\d+)", session.name)
        with suppress(OSError):
            is_old = time.time() - session.stat().st_mtime > KEPT_DAYS * 86_400
            if ended and is_old and not Path(f"/proc/{ended[1]}").exists():
                shutil.rmtree(session, ignore_errors=True)
