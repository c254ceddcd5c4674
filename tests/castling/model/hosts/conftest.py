import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of a host's contract on each of its backbones.

    fvcore takes seconds for a trace: what it counts is compared on the first, the rest are slow.
    """
    if "backbone" not in metafunc.fixturenames or metafunc.cls is None:
        return
    first, *others = metafunc.cls.backbones
    if "is_what_is_counted" in metafunc.function.__name__:
        others = [pytest.param(other, marks=pytest.mark.slow) for other in others]
    metafunc.parametrize("backbone", [first, *others], ids=str)
