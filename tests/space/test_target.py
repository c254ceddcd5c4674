import pytest

from castling.config import BlockConfig, ModelConfig, RunConfig
from castling.errors import ConfigError
from castling.model.backbone import backbone_config
from castling.operators import OPERATORS
from space.catalogue import catalogue
from space.cost import cost
from space.target import DEPTH, Target


RUN = RunConfig(
    model=ModelConfig(blocks=(BlockConfig(num_heads=1), BlockConfig(num_heads=2, mask=None)))
)


@pytest.mark.parametrize(
    ("path", "scope", "block_steps", "option"),
    [
        ("model.embed_width", "model", (), None),
        ("model.depth", "model", (), None),
        ("model.blocks", "model", (), None),
        ("model.blocks.1.mlp", "model", (), None),
        ("model.blocks.*.operator", "block", ("operator",), None),
        ("model.blocks.*.mask.end", "block", ("mask", "end"), None),
        ("model.blocks.*.options.window_size", "block", ("options", "window_size"), "window_size"),
        ("train.augment.flip", "train", (), None),
        ("data.name", "data", (), None),
    ],
)
def test_a_path_says_of_what_it_is_a_field(
    path: str, scope: str, block_steps: tuple[str, ...], option: str | None
) -> None:
    target = Target(path)
    assert (target.scope, target.block_steps, target.option) == (scope, block_steps, option)
    assert target.is_per_block is (scope == "block")


@pytest.mark.parametrize(
    ("path", "layer", "value"),
    [
        ("train.epochs", 0, 40),
        ("train.augment.shift", 0, 0.0),
        ("model.depth", 0, 2),
        ("model.blocks.*.num_heads", 0, 1),
        ("model.blocks.*.num_heads", 1, 2),
        ("model.blocks.*.num_heads", 7, 2),
        ("model.blocks.0.num_heads", 1, 1),
        ("model.blocks.*.mask.end", 1, None),
        ("train.beauty.more", 0, None),
    ],
)
def test_a_value_is_read_from_a_config_and_its_data(path: str, layer: int, value: object) -> None:
    assert Target(path).get(RUN, layer) == value
    assert Target(path).get(RUN.to_data(), layer) == value


@pytest.mark.parametrize(
    "path", ["train.epochs", "model.blocks.1.num_heads", "train.augment.scale"]
)
def test_a_value_that_is_put_is_read_back_and_nothing_else_changes(path: str) -> None:
    data, before = RUN.to_data(), RUN.to_data()
    Target(path).set(data, 5)
    assert Target(path).get(data) == 5
    Target(path).set(data, Target(path).get(before))
    assert data == before


def test_every_block_gets_a_value_and_depth_repeats_or_drops_the_last() -> None:
    data = RUN.to_data()
    Target("model.blocks.*.mlp_ratio").set(data, 1.5)
    assert [block["mlp_ratio"] for block in data["model"]["blocks"]] == [1.5, 1.5]
    DEPTH.set(data, 4)
    data["model"]["blocks"][3]["options"]["own"] = True
    assert [block["num_heads"] for block in data["model"]["blocks"]] == [1, 2, 2, 2]
    assert data["model"]["blocks"][2]["options"] == {}
    DEPTH.set(data, 1)
    assert [block["num_heads"] for block in data["model"]["blocks"]] == [1]


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("train.epochs.more", 1, "must be a field of the config; 'more' is not"),
        ("beauty.model", 1, "must be a field of the config; 'beauty' is not"),
        ("model.blocks.9.mlp", 1, "must be a field of the config; '9' is not"),
        ("model.blocks.*.mask.end", 1, "must be a field of the config; 'end' is not"),
        ("model.depth", 0, "must be a whole number from 1 to 512, got 0"),
        ("model.depth", True, "must be a whole number from 1 to 512, got True"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(path: str, value: object, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Target(path).set(RUN.to_data(), value)
    assert str(caught.value) == f"{path}: {sentence}"


def test_sections_hold_their_fields() -> None:
    end = Target("model.blocks.*.mask.end")
    assert Target("model.blocks.3.mask.end").of_every_block == end
    assert end.of_every_block == end
    assert end.is_within(Target("model.blocks.*.mask"))
    assert end.is_within(end)
    assert not Target("model.blocks.*.mask").is_within(end)
    assert not Target("model.embed_width").is_within(Target("model.embed"))


def test_what_the_data_decides_is_declared_there() -> None:
    fixed = ["data.name", "data.num_train", "model.image_size", "model.channels"]
    assert all(Target(path).is_set_by_data for path in [*fixed, "model.num_classes"])
    free = ["train.epochs", "model.embed_width", "model.options.depth", "model.blocks.*.mlp"]
    assert not any(Target(path).is_set_by_data for path in free)


def test_an_operator_uses_the_fields_that_it_declares() -> None:
    kernel, window = (
        Target(f"model.blocks.*.{field}") for field in ("conv_kernel", "options.window_size")
    )
    for name, spec in OPERATORS.items():
        assert kernel.is_used_by(name) is ("conv_kernel" in spec.uses)
        assert window.is_used_by(name) is ("window_size" in spec.options.model_fields)
        assert Target("model.blocks.*.mlp_ratio").is_used_by(name)
        assert Target("train.epochs").is_used_by(name)


FREE = [dim for dim in catalogue().values() if not dim.target.affects_cost]


def test_costs_depend_on_the_model_but_for_its_training_only_fields() -> None:
    free = {dim.target.path for dim in FREE}
    assert {path for path in catalogue() if path.startswith("train.")} <= free
    assert {path for path in catalogue() if "mask" in path or "drop_path" in path} <= free
    assert all("mask" in path or "drop_path" in path or "train." in path for path in free)
    assert Target("model.blocks.*.options.anything").affects_cost
    assert Target("model.options.drop_path_rate").affects_cost


@pytest.mark.parametrize("path", [dim.target.path for dim in FREE if dim.target.is_per_block])
def test_a_target_that_affects_no_cost_never_changes_it(path: str) -> None:
    """With every operator, in a block and in a layer of timm's model."""
    for name, spec in OPERATORS.items():
        model = ModelConfig(blocks=(BlockConfig(operator=name),))
        runs = [RunConfig(model=model)]
        if spec.core is not None and "drop_path" not in path:
            options = {"embed_dim": 16, "depth": 1, "num_heads": 2}
            runs.append(RunConfig(model=backbone_config("vit_tiny_patch16_224", name, **options)))
        for run in runs:
            before = cost(run.model)
            for value in catalogue()[path].domain.extremes():
                data = run.to_data()
                Target(path).set(data, value)
                after = cost(RunConfig.from_data(data).model)
                assert (after.macs, after.params) == (before.macs, before.params)
