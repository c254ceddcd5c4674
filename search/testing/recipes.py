"""What every recipe must be: a search that can begin, with a line that says what it is for."""

from typing import ClassVar

import pytest

from search.config import SearchConfig, read_recipe
from search.recipes import RECIPES


class RecipeContract:
    """Tests of one recipe; a subclass names it in `recipe`."""

    recipe: ClassVar[str]

    @pytest.fixture
    def name(self) -> str:
        """Return the recipe's name in the registry."""
        return self.recipe

    def test_says_what_it_is_for(self, name: str) -> None:
        """In the first line of its head comment, for the table of recipes."""
        assert RECIPES[name].summary
        assert RECIPES[name].text.startswith(f"# {RECIPES[name].summary}")

    def test_some_point_of_its_space_is_within_its_budget(self, name: str) -> None:
        """Otherwise the search ends before it begins."""
        config = read_recipe(name)
        context = config.context(config.build_space())
        context.space.check(context.feasible_point)

    def test_survives_being_stored(self, name: str) -> None:
        """A run's manifest holds it."""
        config = read_recipe(name)
        assert SearchConfig.from_data(config.to_data()) == config
