import pytest


EVERY_BACKBONE = "test_the_branch_alone_is_the_attention_of_timm"
"""What is tested of every backbone; all else of the first of each kind, of the others slowly."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of an adapter's contract on each of its backbones."""
    if "backbone" not in metafunc.fixturenames or metafunc.cls is None:
        return
    first, *others = metafunc.cls.backbones
    if metafunc.function.__name__ != EVERY_BACKBONE:
        others = [pytest.param(other, marks=pytest.mark.slow) for other in others]
    metafunc.parametrize("backbone", [first, *others], ids=str)
