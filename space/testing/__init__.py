"""Contract tests of spaces that other packages add: a test class inherits one and names its space.

They need the extra `testing`, as `castling.testing` does.
"""

from importlib import import_module

from castling.testing.requirements import check_libraries


check_libraries()
import_module("pytest").register_assert_rewrite("space.testing.spaces")

from space.testing.spaces import SpaceContract  # noqa: E402 - its assertions are rewritten


__all__ = ["SpaceContract"]
