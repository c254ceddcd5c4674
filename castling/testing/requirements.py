"""What contract tests need beside castling: libraries that only tests import."""

from importlib import import_module


LIBRARIES = ("pytest", "hypothesis")


def check_libraries() -> None:
    """Import the libraries of the extra `testing`.

    Raises:
        ImportError: when one is missing, with the command that installs it.
    """
    for library in LIBRARIES:
        try:
            import_module(library)
        except ImportError as error:
            raise ImportError(
                f"castling.testing: needs {' and '.join(LIBRARIES)}, {library} is missing; "
                "pip install 'castling-nas[testing]'"
            ) from error
