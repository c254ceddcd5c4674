"""The native tests under the compiler's sanitizers: no kernel may reach outside its memory."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from castling.kernels.compiler import FLAGS


SANITIZED = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g"
READS_BEYOND = """
from pathlib import Path
from castling.kernels.compiler import load_library
library = load_library(Path("{source}"))
assert library is not None
print("begins")
library.beyond(1)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables under which kernels are compiled with sanitizers, and loaded."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    assert compiler is not None, "this test needs a C compiler: install one"
    found = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")  # whose exceptions the first must find
    ]
    assert Path(found[0]).is_absolute(), f"{compiler} has no AddressSanitizer: install its libasan"
    return os.environ | {
        FLAGS: SANITIZED,
        "LD_PRELOAD": " ".join(found),
        "ASAN_OPTIONS": "detect_leaks=0",
        "XDG_CACHE_HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "HYPOTHESIS_PROFILE": "quick",
    }


def _run(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.slow
def test_what_reaches_outside_its_memory_is_seen(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """Without this, the test below could pass by seeing nothing."""
    source = tmp_path / "beyond.c"
    source.write_text(
        "#include <stdlib.h>\n"
        "int beyond(int count) { volatile int *x = malloc(4 * count); return x[count]; }\n"
    )
    code, said = _run(environment, "-c", READS_BEYOND.format(source=source))
    assert code != 0
    assert "begins" in said
    assert "heap-buffer-overflow" in said


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kernels_stay_inside_their_memory(environment: dict[str, str]) -> None:
    """All tests of this folder that call kernels, but for the one that waits for torch.compile."""
    here = Path(__file__)
    code, said = _run(
        environment,
        "-m", "pytest", "-q", "-x", "-s", "-n", "0", "-p", "no:cacheprovider", "--timeout", "300",
        "--ignore", str(here), "--ignore", str(here.with_name("test_compiler.py")),
        "-k", "not a_compiled_layer", str(here.parent),
    )  # fmt: skip
    assert code == 0, said[-4000:]
    assert "passed" in said
