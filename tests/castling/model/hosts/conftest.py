import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of a host's contract on each of its backbones."""
    if "backbone" in metafunc.fixturenames and metafunc.cls is not None:
        metafunc.parametrize("backbone", metafunc.cls.backbones, ids=str)
