import json
from pathlib import Path
from typing import Any

import pytest

import castling
from castling.config import (
    BackboneConfig,
    BlockConfig,
    Config,
    LayerChoice,
    ModelConfig,
    RunConfig,
)
from castling.errors import ConfigError
from castling.model.check import check, checked, digest, resolve, run_config
from castling.model.digest_v1 import FIELDS, digest_v1


V1_RUNS = Path(__file__).parents[2] / "data" / "run_v1"
NO_OPERATOR = ModelConfig(blocks=(BlockConfig(), BlockConfig(operator="typo")))


def v1_trials() -> list[dict[str, Any]]:
    """Return the attributes of every trial with a config that version 0.1.0 stored."""
    trials: dict[tuple[str, int], dict[str, Any]] = {}
    for journal in sorted(V1_RUNS.rglob("study.journal")):
        for line in journal.read_text().splitlines():
            entry = json.loads(line)
            if "user_attr" in entry:
                stored = trials.setdefault((str(journal), entry["trial_id"]), {})
                stored.update(entry["user_attr"])
    return [trial for trial in trials.values() if {"config", "record"} <= trial.keys()]


def test_a_config_is_plain_data_and_is_checked_where_a_model_is_built() -> None:
    for refuse in (check, castling.build):
        with pytest.raises(ConfigError, match=r"^blocks\.1\.operator: must be one of .*'typo'$"):
            refuse(NO_OPERATOR)
    with pytest.raises(ConfigError, match=r"^model\.blocks\.1\.operator: must be one of"):
        checked(RunConfig(model=NO_OPERATOR))
    with pytest.raises(ConfigError, match=r"^here: model\.blocks\.1\.operator: must be one of"):
        run_config({"model": {"blocks": [{}, {"operator": "typo"}]}}, "here")


def test_options_of_the_chosen_operator_alone_are_taken() -> None:
    block = BlockConfig(operator="swin", options={"window_size": 2})
    check(ModelConfig(blocks=(block,)))
    with pytest.raises(ConfigError, match=r"options\.window_size: .*options of taylor"):
        check(ModelConfig(blocks=(block.replace(operator="taylor"),)))


def test_the_one_choice_of_a_backbone_must_be_written_out_in_python() -> None:
    with pytest.raises(ConfigError, match=r"blocks: must be a list, one choice for each"):
        BackboneConfig(backbone="deit_tiny_patch16_224", blocks="softmax")
    with pytest.raises(ConfigError, match=r"12 attention layers of deit_tiny.*, got 1"):
        check(BackboneConfig(backbone="deit_tiny_patch16_224", blocks=("softmax",)))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({"backbone": "deit_huge"}, "model.backbone: must be one of timm's models"),
        ({"backbone": "levit_128s", "wings": 2}, "model.wings: is not a field of StockBackbone"),
        ({"backbone": "levit_128s", "options": {"img_size": 4}}, "model.options.img_size: is set"),
    ],
)
def test_a_backbone_that_cannot_be_built_is_refused_with_its_path(
    model: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        run_config({"model": {**model, "blocks": "softmax"}})
    assert str(caught.value).startswith(sentence)


def test_what_is_at_its_default_is_no_part_of_a_digest() -> None:
    """So that a field or an option which is added later changes no digest."""
    model = ModelConfig(blocks=(BlockConfig(operator="swin"), BlockConfig(mlp_ratio=2.0)))
    run = RunConfig(model=model)
    assert digest(run) == digest(run.replace(model=resolve(model))) == "811a3858af4dae42"

    class LaterConfig(RunConfig):
        later: int = 3

    assert digest(LaterConfig(**dict(run))) == digest(run)
    assert digest(LaterConfig(**dict(run), later=4)) != digest(run)


def test_version_1_digests_are_computed_as_they_were() -> None:
    trials = v1_trials()
    assert len(trials) > 5
    for trial in trials:
        assert digest_v1(run_config(trial["config"])) == trial["record"]["config_id"]


def test_fields_added_since_are_no_part_of_a_version_1_digest() -> None:
    class LaterConfig(RunConfig):
        later: int = 3

    run = RunConfig()
    LaterConfig.__name__ = "RunConfig"
    assert digest_v1(LaterConfig(**dict(run))) == digest_v1(run)


@pytest.mark.parametrize("config", [RunConfig(), ModelConfig(), BlockConfig(), LayerChoice()])
def test_version_1_had_these_fields(config: Config) -> None:
    names = FIELDS[type(config).__name__].split()
    assert set(names) <= type(config).model_fields.keys()
