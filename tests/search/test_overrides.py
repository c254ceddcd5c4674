from pathlib import Path

import pytest

from castling.errors import ConfigError
from search.config import SearchConfig
from search.overrides import Overrides, overridden
from space.budget import Budget


RECIPE = SearchConfig(
    trials=5, budget=Budget(max_macs=900_000, max_params=50_000), set={"train.epochs": 3}
)


def test_what_is_none_or_left_out_stays_the_recipes() -> None:
    assert overridden(RECIPE, {}) == RECIPE
    assert overridden(RECIPE, dict.fromkeys(Overrides.__annotations__)) == RECIPE


def test_bounds_and_settings_are_put_beside_those_of_the_recipe(tmp_path: Path) -> None:
    points = tmp_path / "points.yaml"
    points.write_text("- {model.patch_size: 2}\n")
    changed = overridden(
        RECIPE,
        {
            "max_macs": "1.2M",
            "min": {"top1": 0.9},
            "points": str(points),
            "seed": 7,
            "settings": {"train.batch_size": 8},
        },
    )
    assert (changed.trials, changed.seed) == (5, 7)
    assert changed.budget == Budget(max_macs=1_200_000, max_params=50_000, min={"top1": 0.9})
    assert changed.set == {"train.epochs": 3, "train.batch_size": 8}
    assert changed.points == ({"model.patch_size": 2},)


def test_an_override_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(TypeError, match="no such override: max_mac; there are max_macs, "):
        overridden(RECIPE, {"max_mac": "1M"})  # type: ignore[typeddict-unknown-key]


def test_a_value_that_breaks_a_rule_is_refused_as_in_a_recipe() -> None:
    with pytest.raises(ConfigError, match="trials"):
        overridden(RECIPE, {"trials": 0})
