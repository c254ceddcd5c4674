"""Compiles a C file with the machine's compiler, once, and stores the library in a cache."""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from castling.kernels import cache


SWITCH = "CASTLING_NATIVE"
"""Environment variable; 0 leaves every kernel to torch."""
FLAGS = "CASTLING_NATIVE_FLAGS"
"""Environment variable; further flags for the compiler, such as those of sanitizers."""
VERSION_SECONDS, COMPILE_SECONDS = 10.0, 60.0
"""Seconds that a compiler may take for its version, and for a kernel."""

_OPTIMISED = (
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
    "-fassociative-math",
    "-ffp-contract=fast",
    "-shared",
    "-fPIC",
    "-Wno-psabi",
)
_MACHINES = (("-march=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",), ())
"""Flags from the fastest on, for compilers that lack some."""

_log = logging.getLogger(__name__)


@functools.cache
def load_library(source: Path, **sizes: int) -> ctypes.CDLL | None:
    """Return the library of a C file, or None if it cannot be built; the reason is logged once.

    Libraries are stored in `castling` in the user's cache folder, by content, sizes, compiler and
    processor, so that different machines may share the folder.

    Args:
        source: the file.
        sizes: macros that it is compiled with.
    """
    if os.environ.get(SWITCH) == "0":
        return None
    compiler = _compiler(os.environ.get("CC", "cc"))
    if compiler is None or compiler.hangs:
        return None
    macros = [f"-D{name.upper()}={size}" for name, size in sizes.items()]
    macros += os.environ.get(FLAGS, "").split()
    try:
        path = cache.folder() / f"{source.stem}-{_digest(source, compiler, macros)}.so"
        return _load(path) or _compiled(source, compiler, macros, path)
    except subprocess.TimeoutExpired as error:
        compiler.hangs = True
        reason: Exception = error
    except OSError as error:
        reason = error
    _log.warning("%s could not be compiled (%s): torch runs it slower.", source.name, reason)
    return None


@dataclass(slots=True)
class _Compiler:
    """A compiler that has said its version."""

    path: str
    version: bytes
    hangs: bool = False
    """Whether it took too long; it is not called again."""


@functools.cache
def _compiler(command: str) -> _Compiler | None:
    """Return the compiler of a name or path; without one log the reason once and return None."""
    path = shutil.which(command)
    if path is None:
        _log.warning("No C compiler was found: attention runs slower, by torch alone.")
        return None
    try:
        result = _run([path, "--version"], VERSION_SECONDS)
        result.check_returncode()
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning(
            "%s does not say its version (%s): attention runs slower, by torch alone.", path, error
        )
        return None
    return _Compiler(path, result.stdout)


def _run(command: list[str], seconds: float) -> subprocess.CompletedProcess[bytes]:
    """Run a command without input; after its time it is killed with all processes it started.

    Raises:
        subprocess.TimeoutExpired: when it was not ready in time.
        OSError: when it cannot be started.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            said, errors = process.communicate(timeout=seconds)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, said, errors)


def _digest(source: Path, compiler: _Compiler, macros: list[str]) -> str:
    texts = [source, *sorted(source.parent.glob("*.h"))]  # what it may include
    parts = [
        *(text.read_bytes() for text in texts),
        compiler.version,
        " ".join([compiler.path, *_OPTIMISED, *macros]).encode(),
        _processor(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]


def _processor() -> bytes:
    """Return the processor's instruction sets, as far as the system lists them."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        lines = []
    relevant = {line for line in lines if line.startswith((b"flags", b"Features", b"model name"))}
    return b"\n".join([platform.machine().encode(), *sorted(relevant)])


def _load(path: Path) -> ctypes.CDLL | None:
    """Return a library that this user compiled earlier, unless it is damaged."""
    try:
        return ctypes.CDLL(str(path)) if cache.is_own_file(path) else None
    except OSError:
        return None


def _compiled(source: Path, compiler: _Compiler, macros: list[str], path: Path) -> ctypes.CDLL:
    """Compile to a temporary file and move it, so that parallel processes do no harm."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        said = ""
        for flags in _MACHINES:
            result = _run(
                [compiler.path, *_OPTIMISED, *flags, *macros, str(source), "-o", str(made), "-lm"],
                COMPILE_SECONDS,
            )
            if result.returncode == 0:
                made.chmod(0o700)  # whatever the umask
                made.replace(path)
                return ctypes.CDLL(str(path))
            lines = result.stderr.decode(errors="replace").splitlines()
            said = next((line for line in lines if "error" in line), f"{compiler.path} failed")
    raise OSError(said)
