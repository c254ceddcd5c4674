import subprocess
import sys

import pytest


@pytest.mark.parametrize("library", ["pytest", "hypothesis"])
@pytest.mark.parametrize("module", ["castling.testing", "space.testing", "search.testing"])
def test_contract_tests_without_their_libraries_say_what_to_install(
    module: str, library: str
) -> None:
    code = f"import sys; sys.modules['{library}'] = None; import {module}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    *_, sentence = done.stderr.splitlines()
    assert sentence == (
        f"ImportError: castling.testing: needs pytest and hypothesis, {library} is missing; "
        "pip install 'castling-nas[testing]'"
    )
