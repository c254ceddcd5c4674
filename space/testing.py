"""Contract tests of spaces that other packages add; they need the extra `testing`."""

from random import Random
from typing import ClassVar

from castling.testing.requirements import check_libraries


check_libraries()

import pytest  # noqa: E402 - only where it is installed

from space.decode import decode  # noqa: E402
from space.feasible import default_point  # noqa: E402
from space.point import Space  # noqa: E402
from space.presets import SPACES, counted  # noqa: E402


class SpaceContract:
    """Tests of one space; a subclass names it in `space`."""

    space: ClassVar[str]

    @pytest.fixture
    def name(self) -> str:
        """Return the space's name in the registry."""
        return self.space

    def test_bears_its_name_and_says_what_it_is(self, name: str) -> None:
        """In a line for the table of spaces, with its size and the costs of its ends."""
        assert SPACES[name]().name == name
        assert SPACES[name].summary.endswith(".")
        assert SPACES[name].listing() == counted(SPACES[name]())

    def test_its_default_point_is_its_base(self, name: str) -> None:
        """What a search tries first."""
        space = SPACES[name]()
        space.check(default_point(space))
        assert decode(space, default_point(space)) == space.base

    def test_it_survives_being_stored(self, name: str) -> None:
        """A run's manifest holds it whole; drawn points are the same models."""
        space = SPACES[name]()
        again = Space.from_data(space.to_data())
        assert again.domains == space.domains
        assert again.sample(Random(0)) == space.sample(Random(0))
