"""Spaces and recipes of other packages are listed and searched, and listing needs no torch."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from castling.errors import ConfigError
from search.config import read_recipe
from search.recipes import RECIPES, Recipe
from space.point import Space
from space.presets import SPACES, Preset, counted


ROOT = Path(__file__).parents[3]
SPACE = """# Two blocks of little width.
listed: {dimensions: 1, fewest_macs: 1000, most_macs: 2000}
base: {model: {embed_width: 16, blocks: [{num_heads: 1}]}}
depth: 2
dimensions:
  - {target: model.embed_width, choices: [16, 24]}
"""
RECIPE = """# A look at the space of two blocks.
space: two-blocks
trials: 1
"""
LISTED = """
import sys
from search.cli import main
for words in ("spaces", "recipes", "--help"):
    sys.argv = ["castling", words]
    try:
        main()
    except SystemExit as end:
        assert not end.code, words
assert not {"torch", "ray", "optuna", "pandas"} & sys.modules.keys()
"""


@pytest.fixture
def distribution(tmp_path: Path) -> Path:
    """An installed package with a space and a recipe, on a path of its own."""
    site = tmp_path / "site"
    information = site / "two_blocks-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "two_blocks.py").write_text(
        "from pathlib import Path\nSPACE = Path(__file__).with_name('space.yaml')\n"
        "RECIPE = str(Path(__file__).with_name('recipe.yaml'))\n"
    )
    (site / "space.yaml").write_text(SPACE)
    (site / "recipe.yaml").write_text(RECIPE)
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: two-blocks\nVersion: 1.0\n"
    )
    (information / "entry_points.txt").write_text(
        "[castling.spaces]\ntwo-blocks = two_blocks:SPACE\n"
        "[castling.recipes]\nlook = two_blocks:RECIPE\n"
    )
    return site


def test_an_installed_space_and_recipe_are_listed_without_torch(distribution: Path) -> None:
    path = os.pathsep.join([str(distribution), str(ROOT)])
    ran = subprocess.run(
        [sys.executable, "-c", LISTED],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "COLUMNS": "200"},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert [
        "two-blocks",
        "1",
        "1.00k",
        "2.00k",
        *["Two", "blocks", "of", "little", "width."],
    ] in lines
    assert ["look", *["A", "look", "at", "the", "space", "of", "two", "blocks."]] in lines


def small() -> Space:
    """One width of a small model.

    And more words that no table has room for.
    """
    return SPACES["digits"]()


@pytest.mark.parametrize("kind", [Path, str])
def test_a_space_of_a_file_is_searched(kind: Callable[[Path], object], tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(SPACE.replace("listed:", "# listed:"))
    with SPACES.temporarily("two-blocks", Preset.of("two-blocks", kind(file))):
        assert SPACES["two-blocks"].listing() == counted(SPACES["two-blocks"]())
        space = read_recipe("two-blocks").build_space()
    assert (space.name, len(space.base.model.blocks)) == ("two-blocks", 2)


def test_a_space_of_a_function_is_counted_when_it_is_listed() -> None:
    preset = Preset("small", small)
    assert preset.summary == "One width of a small model."
    assert preset.listing() == SPACES["digits"].listing()
    assert preset() == SPACES["digits"]()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("dimension: []", "dimension: is not a field of SpaceFile"),
        ("base: {train: {epoch: 3}}", "base: train.epoch: is not a field of TrainConfig"),
        ("depth: 0", "depth: must be greater than or equal to 1"),
        ("dimensions: [{target: model.pooling}]", "model.pooling: needs choices, or low and high"),
        ("- 3", "must be a mapping of SpaceFile fields"),
    ],
)
def test_a_bad_file_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Preset("bad", file)()
    assert str(caught.value).startswith(f"{file}: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [Preset.of, Recipe.of])
def test_an_entry_point_of_no_file_is_one_sentence(make: Callable[[str, object], object]) -> None:
    with pytest.raises(ConfigError, match=r"^bad: must be the path of a YAML file.*, got 3$"):
        make("bad", 3)


def test_the_documented_file_is_a_space(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "spaces.md").read_text(encoding="utf-8")
    file = tmp_path / "space.yaml"
    file.write_text(page.partition("```yaml\n")[2].partition("```")[0])
    with SPACES.temporarily("page", Preset("page", file)):
        space = read_recipe("page").build_space()
    assert len(space.domains) == Preset("page", file).listing().dimensions


def test_a_recipe_of_another_package_is_read_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.replace("two-blocks", "digits"))
    with RECIPES.temporarily("look", Recipe(file)):
        config = read_recipe("look")
    assert (config.name, config.space, config.trials) == ("look", "digits", 1)
