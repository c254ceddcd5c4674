"""Compiles a C file with the machine's own compiler, once, and keeps the library in a cache."""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path


SWITCH = "CASTLING_NATIVE"
"""Environment variable; 0 leaves every kernel to torch."""

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


@cache
def load_library(source: Path, **sizes: int) -> ctypes.CDLL | None:
    """Return the library of a C file, or None where it cannot be had; why is logged once.

    Libraries are kept in `castling` of the user's cache folder, by content, sizes, compiler and
    processor, so that one folder may serve different machines.

    Args:
        source: the file.
        sizes: macros that it is compiled with.
    """
    if os.environ.get(SWITCH) == "0":
        return None
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        _log.warning("No C compiler was found: attention runs slower, by torch alone.")
        return None
    macros = [f"-D{name.upper()}={size}" for name, size in sizes.items()]
    path = _folder() / f"{source.stem}-{_digest(source, compiler, macros)}.so"
    try:
        return _load(path) or _compiled(source, compiler, macros, path)
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("%s could not be compiled (%s): torch runs it slower.", source.name, error)
        return None


def _folder() -> Path:
    """Return the cache folder, or a new one for this process where that cannot be written."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    folder = Path(home) / "castling"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return _temporary()
    owned = folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK)
    return folder if owned else _temporary()


@cache
def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="castling-"))


def _digest(source: Path, compiler: str, macros: list[str]) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    texts = [source, *sorted(source.parent.glob("*.h"))]  # what it may include
    parts = [
        *(text.read_bytes() for text in texts),
        version,
        " ".join([compiler, *_OPTIMISED, *macros]).encode(),
        _processor(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]


def _processor() -> bytes:
    """Return what instructions are there, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        lines = []
    known = {line for line in lines if line.startswith((b"flags", b"Features", b"model name"))}
    return b"\n".join([platform.machine().encode(), *sorted(known)])


def _load(path: Path) -> ctypes.CDLL | None:
    """Return a library that was compiled earlier, unless it is damaged."""
    try:
        return ctypes.CDLL(str(path)) if path.exists() else None
    except OSError:
        return None


def _compiled(source: Path, compiler: str, macros: list[str], path: Path) -> ctypes.CDLL:
    """Compile beside the path and move there, so that processes side by side do no harm."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        said = ""
        for flags in _MACHINES:
            result = subprocess.run(
                [compiler, *_OPTIMISED, *flags, *macros, str(source), "-o", str(made), "-lm"],
                capture_output=True,
                timeout=120,
                check=False,
            )
            if result.returncode == 0:
                made.replace(path)
                return ctypes.CDLL(str(path))
            lines = result.stderr.decode(errors="replace").splitlines()
            said = next((line for line in lines if "error" in line), f"{compiler} failed")
    raise OSError(said)
