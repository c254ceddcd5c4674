"""A run is resumed with the space that it was begun with, whatever castling has learnt since."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from castling.errors import RunFolderError, SpaceMismatchError
from castling.operators import OPERATORS
from reports.manifest import Manifest
from search.config import SearchConfig
from search.study.resume import resumed_space
from search.study.run_folder import new_manifest
from space.domain import Choice
from space.point import Space


V1_RUN = Path(__file__).parents[2] / "data" / "run_v1" / "interrupted"
OPERATOR = {"target": "model.blocks.*.operator", "tie": "all"}
"""Choices left to the catalogue, which has one more once an operator is registered."""
OPEN = SearchConfig.from_data({"dimensions": [OPERATOR], "set": {"train.epochs": 2}})


def begun(run: Path, config: SearchConfig = OPEN) -> Manifest:
    """A run's manifest as a later driver finds it on disk."""
    new_manifest(config.context(config.build_space()), None).write(run)
    return Manifest.read(run)


def operators_of(space: Space) -> tuple[object, ...]:
    [domain] = [dim.domain for dim in space.dimensions if dim.target.is_operator]
    assert isinstance(domain, Choice)
    return domain.values


def test_a_manifest_holds_the_whole_space(tmp_path: Path) -> None:
    space = OPEN.build_space()
    assert begun(tmp_path).read_space(tmp_path) == Space.from_data(space.to_data())
    assert "&" not in (tmp_path / "config.yaml").read_text(encoding="utf-8")  # nor an alias


@pytest.mark.parametrize("config", [OPEN, OPEN.replace(trials=99)])
def test_a_new_operator_is_none_of_an_older_runs_choices(
    config: SearchConfig, tmp_path: Path
) -> None:
    manifest, choices = begun(tmp_path), operators_of(OPEN.build_space())
    with OPERATORS.temporarily("average", OPERATORS["softmax"]):
        assert "average" in operators_of(config.build_space())
        assert operators_of(resumed_space(tmp_path, manifest, config)) == choices


def test_a_recipe_that_leaves_choices_open_agrees_with_a_runs_own(tmp_path: Path) -> None:
    manifest = begun(tmp_path)
    same = OPEN.replace(set={"train.epochs": 2, "train.batch_size": 64})  # 64 is the default
    other = OPEN.replace(set={"train.epochs": 3})
    with OPERATORS.temporarily("average", OPERATORS["softmax"]):
        resumed_space(tmp_path, manifest, same)
        with pytest.raises(SpaceMismatchError, match=r"with train\.epochs 2, this search has 3"):
            resumed_space(tmp_path, manifest, other)


def test_an_operator_that_is_gone_is_named(tmp_path: Path) -> None:
    with OPERATORS.temporarily("average", OPERATORS["softmax"]):
        manifest = begun(tmp_path)
    with pytest.raises(ValueError, match=r"operator: cannot be 'average' .*must be one of"):
        resumed_space(tmp_path, manifest, OPEN)


def without(data: dict[str, Any], *path: str) -> dict[str, Any]:
    """Plain data as a version had it that did not have a field."""
    section = data
    for step in path[:-1]:
        section = section[step]
    del section[path[-1]]
    return data


def test_a_field_that_was_added_since_has_its_default(tmp_path: Path) -> None:
    data = begun(tmp_path).to_data()
    space = without(without(data["space"], "base", "train", "gate_rate"), "base", "data", "path")
    for block in space["base"]["model"]["blocks"]:
        without(block, "mlp")
    older = Manifest.from_data(data)
    assert resumed_space(tmp_path, older, OPEN) == begun(tmp_path).read_space(tmp_path)


@pytest.mark.parametrize("section", ["train", "model"])
def test_a_field_of_a_newer_version_is_refused_in_one_sentence(
    section: str, tmp_path: Path
) -> None:
    data = begun(tmp_path).to_data()
    data["versions"]["castling-nas"] = "9.9"
    data["space"]["base"][section]["warp"] = 3
    with pytest.raises(RunFolderError, match=r"warp.*is not a field.*castling-nas 9\.9") as caught:
        resumed_space(tmp_path, Manifest.from_data(data), OPEN)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"dimensions": [{**OPERATOR, "choices": ["softmax", "taylor"]}]},
            r'model\.blocks\.\*\.operator .*kind="choice" values=\["softmax", "taylor"\], tie=all',
        ),
        ({"dimensions": []}, r"the dimension model\.blocks\.\*\.operator"),
        ({"set": {"train.epochs": 3}}, r"with train\.epochs 2, this search has 3; leave out"),
        (
            {"set": {"train.epochs": 2, "model.embed_width": 32}},
            r"the dimension model\.embed_width \(kind=.*this search has none",
        ),
    ],
)
def test_another_space_is_refused_by_what_differs(
    change: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    other = SearchConfig.from_data(OPEN.to_data() | change)
    with pytest.raises(SpaceMismatchError, match=sentence) as caught:
        resumed_space(tmp_path, begun(tmp_path), other)
    assert "\n" not in str(caught.value)


def test_another_way_to_write_the_same_space_is_the_same_search(tmp_path: Path) -> None:
    listed = {**OPERATOR, "choices": [*operators_of(OPEN.build_space())]}
    width = {"target": "model.embed_width", "low": 16, "high": 64, "step": 8}
    other = SearchConfig.from_data(OPEN.to_data() | {"dimensions": [width, listed]})
    resumed_space(tmp_path, begun(tmp_path), other)


@pytest.fixture
def first_version(tmp_path: Path) -> Path:
    """A run of version 0.1.0 with two trials, whose recipe leaves the operators open."""
    return shutil.copytree(V1_RUN, tmp_path / "interrupted")


def test_a_run_of_the_first_version_has_the_choices_of_its_study(first_version: Path) -> None:
    manifest = Manifest.read(first_version)
    config = SearchConfig.from_data(manifest.recipe)
    space = resumed_space(first_version, manifest, config)
    with OPERATORS.temporarily("average", OPERATORS["softmax"]):
        assert "average" in operators_of(config.build_space())
        assert resumed_space(first_version, manifest, config) == space


def test_a_run_of_the_first_version_without_a_trial_has_todays_choices(
    first_version: Path,
) -> None:
    (first_version / "study.journal").unlink()
    manifest = Manifest.read(first_version)
    config = SearchConfig.from_data(manifest.recipe)
    with OPERATORS.temporarily("average", OPERATORS["softmax"]):
        assert resumed_space(first_version, manifest, config) == config.build_space()


def test_a_first_versions_study_that_is_another_searchs_is_refused(first_version: Path) -> None:
    path = first_version / "config.yaml"
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    data["recipe"]["dimensions"] += [{"target": "train.warmup", "low": 0.0, "high": 0.5}]
    manifest = Manifest.from_data(data)
    with pytest.raises(SpaceMismatchError, match=r"the dimension train\.warmup None"):
        resumed_space(first_version, manifest, SearchConfig.from_data(manifest.recipe))
