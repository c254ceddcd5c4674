import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import assume, given, settings, strategies as st
from pydantic import BaseModel

from castling.config import (
    OPERATOR_FIELDS,
    AugmentConfig,
    BlockConfig,
    Config,
    DataConfig,
    MaskSchedule,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from castling.config.kinds import kinds_of
from castling.config.limits import LARGEST_RATIO
from castling.errors import ConfigError
from castling.files import write_yaml
from castling.model.check import (
    canonical,
    canonical_layer,
    digest,
    read_run_config,
    run_config,
)
from castling.operators import OPERATORS
from castling.operators.spec import fits_anywhere
from castling.untrusted.plain_yaml import read_yaml


EVERYWHERE = [name for name, spec in OPERATORS.items() if spec.check is fits_anywhere]
"""The operators that serve every layer; those with rules have tests of their own."""


SHAPES = st.sampled_from(["constant", "linear", "cosine", "step"])
FRACTION = st.floats(0.0, 1.0)
BELOW_ONE = st.floats(0.0, 1.0, exclude_max=True)
POSITIVE = st.floats(1e-9, 1e9)


@st.composite
def schedules(draw: st.DrawFn, shapes: st.SearchStrategy[str] = SHAPES) -> MaskSchedule:
    start, end = sorted(draw(st.tuples(FRACTION, FRACTION)))
    return MaskSchedule(
        shape=draw(shapes),
        start_multiple=draw(st.floats(0.0, 1e3)),
        start=start,
        end=end,
        num_steps=draw(st.integers(1, 20)),
        l1_weight=draw(st.floats(0.0, 10.0)),
    )


BLOCKS = st.builds(
    BlockConfig,
    operator=st.sampled_from(EVERYWHERE),
    num_heads=st.integers(1, 64),
    head_size=st.integers(1, 256),
    conv_kernel=st.integers(0, 20).map(lambda half: 2 * half + 1),
    conv_form=st.sampled_from(["tokens", "grid"]),
    conv_filters=st.sampled_from(["head", "channel"]),
    mask=st.none() | schedules(),
    mlp_ratio=st.floats(1e-9, LARGEST_RATIO),
    drop_path=BELOW_ONE,
)


@st.composite
def models(draw: st.DrawFn) -> ModelConfig:
    patch = draw(st.integers(1, 32))
    sides = st.integers(1, 20).map(lambda patches: patches * patch)
    return ModelConfig(
        image_size=draw(st.tuples(sides, sides)),
        channels=draw(st.integers(1, 5)),
        num_classes=draw(st.integers(1, 1000)),
        patch_size=patch,
        embed_width=draw(st.integers(1, 4096)),
        pooling=draw(st.sampled_from(["cls", "mean"])),
        qkv_bias=draw(st.booleans()),
        blocks=tuple(draw(st.lists(BLOCKS, min_size=1, max_size=3))),
    )


TRAININGS = st.builds(
    TrainConfig,
    epochs=st.integers(1, 10_000),
    batch_size=st.integers(1, 10_000),
    learning_rate=POSITIVE,
    final_learning_rate=FRACTION,
    warmup=BELOW_ONE,
    weight_decay=st.floats(0.0, 1e9),
    label_smoothing=BELOW_ONE,
    clip_norm=POSITIVE,
    augment=st.builds(
        AugmentConfig,
        shift=st.floats(0.0, 0.5),
        rotate=st.floats(0.0, 180.0),
        scale=BELOW_ONE,
        flip=st.booleans(),
        erase=FRACTION,
    ),
    precision=st.sampled_from(["float32", "bfloat16"]),
    seed=st.integers(0, 2**31 - 1),
)
DATA = st.builds(
    DataConfig,
    name=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    path=st.none() | st.text("abc/é .-", min_size=1).map(Path),
    num_train=st.none() | st.integers(1, 10**6),
    num_validation=st.none() | st.integers(1, 10**6),
    split_seed=st.integers(0, 2**31 - 1),
)
RUNS = st.builds(RunConfig, model=models(), train=TRAININGS, data=DATA)


def one_line(error: ConfigError) -> str:
    text = str(error)
    assert "\n" not in text
    for material in ("Traceback", "pydantic", "validation error", "errors.pydantic.dev"):
        assert material not in text
    return text


@given(schedules(), FRACTION, st.integers(1, 5000))
def test_a_threshold_lies_between_its_start_and_one(
    mask: MaskSchedule, progress: float, num_tokens: int
) -> None:
    first = min(1.0, mask.start_multiple / num_tokens)
    assert 0.0 <= first <= mask.threshold(progress, num_tokens) <= 1.0


@given(schedules(), st.tuples(FRACTION, FRACTION).map(sorted), st.integers(1, 5000))
def test_a_threshold_never_falls(
    mask: MaskSchedule, progress: list[float], num_tokens: int
) -> None:
    early, late = (mask.threshold(when, num_tokens) for when in progress)
    assert early <= late + 1e-12


@given(schedules(), st.integers(1, 5000))
def test_a_threshold_starts_at_its_multiple_of_uniform_attention(
    mask: MaskSchedule, num_tokens: int
) -> None:
    assume(mask.end > 0.0)
    first = min(1.0, mask.start_multiple / num_tokens)
    assert mask.threshold(0.0, num_tokens) == first
    assert mask.threshold(mask.start, num_tokens) == (
        1.0 if mask.shape != "constant" and mask.start == mask.end else first
    )


@given(schedules(st.sampled_from(["linear", "cosine", "step"])), FRACTION, st.integers(1, 5000))
def test_a_rising_threshold_reaches_exactly_one_and_stays(
    mask: MaskSchedule, progress: float, num_tokens: int
) -> None:
    assert mask.threshold(1.0, num_tokens) == 1.0
    assert mask.threshold(mask.end, num_tokens) == 1.0
    assert mask.threshold(max(progress, mask.end), num_tokens) == 1.0


@given(schedules(st.just("constant")), FRACTION, st.integers(1, 5000))
def test_a_constant_threshold_stays(mask: MaskSchedule, progress: float, num_tokens: int) -> None:
    assert mask.threshold(progress, num_tokens) == min(1.0, mask.start_multiple / num_tokens)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7])
def test_the_step_shape_rises_in_equal_jumps(num_steps: int) -> None:
    mask = MaskSchedule(shape="step", start=0.25, end=0.75, num_steps=num_steps, start_multiple=2)
    fine = [mask.threshold(i / 840, 10) for i in range(841)]
    levels = sorted(set(fine))
    assert len(levels) == num_steps + 1
    jumps = [high - low for low, high in itertools.pairwise(levels)]
    assert jumps == pytest.approx([0.8 / num_steps] * num_steps)


@pytest.mark.parametrize(
    ("shape", "progress", "expected"),
    [
        ("linear", 0.5, 0.2 + 0.8 * 0.5),
        ("linear", 0.375, 0.2 + 0.8 * 0.25),
        ("cosine", 0.5, 0.2 + 0.8 * 0.5),
        ("cosine", 0.375, 0.2 + 0.8 * (1.0 - math.sqrt(0.5)) / 2.0),
        ("step", 0.49, 0.2 + 0.8 * 0.25),
    ],
)
def test_a_threshold_between_start_and_end(shape: str, progress: float, expected: float) -> None:
    mask = MaskSchedule(shape=shape, start=0.25, end=0.75, start_multiple=2.0)
    assert mask.threshold(progress, 10) == pytest.approx(expected)


def test_an_end_before_the_start_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        MaskSchedule(start=0.8, end=0.5)
    assert one_line(caught.value) == "start: must not exceed end=0.5, got 0.8"


@given(RUNS)
def test_every_config_survives_yaml(run: RunConfig) -> None:
    text = yaml.safe_dump(run.to_data(), sort_keys=False)
    assert RunConfig.from_data(yaml.safe_load(text)) == run


def test_a_config_file_is_read_from_its_path_or_its_folder(tmp_path: Path) -> None:
    run = RunConfig(data=DataConfig(path=tmp_path, num_train=100))
    file = tmp_path / "config.yaml"
    write_yaml(file, run.to_data(), head="made by a test")
    assert read_run_config(file) == read_run_config(tmp_path) == run


@given(RUNS)
@settings(max_examples=20)
def test_equal_trainings_have_equal_digests(run: RunConfig) -> None:
    model = canonical(run.model)
    assert digest(run) == digest(run.replace(model=model)) == digest(run.replace())
    assert canonical(model) == model
    other = run.replace(train=run.train.replace(seed=(run.train.seed + 1) % 2**31))
    assert digest(run) != digest(other)


@given(BLOCKS)
def test_ignored_fields_do_not_make_a_block_another(block: BlockConfig) -> None:
    equal = canonical_layer(block)
    uses = OPERATORS[block.operator].uses
    for field, info in BlockConfig.model_fields.items():
        if field in OPERATOR_FIELDS - uses:
            assert getattr(equal, field) == info.default
        elif field == "options":
            options = OPERATORS[block.operator].options(**block.options)
            assert equal.options == options.to_data()
        elif field == "mask":
            assert equal.mask == (block.mask and block.mask.canonical())
        else:
            assert getattr(equal, field) == getattr(block, field)


@given(models())
@settings(max_examples=20)
def test_a_castled_config_has_no_schedules_and_nothing_else_changed(model: ModelConfig) -> None:
    castled = model.castled()
    assert all(block.mask is None for block in castled.blocks)
    masks = [block.mask for block in model.blocks]
    blocks = zip(castled.blocks, masks, strict=True)
    restored = castled.replace(blocks=tuple(block.replace(mask=mask) for block, mask in blocks))
    assert restored == model


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        TrainConfig().epochs = 3


def test_one_number_is_a_square_image() -> None:
    assert ModelConfig(image_size=12).image_size == (12, 12)
    assert ModelConfig(image_size=[4, 6]).image_size == (4, 6)


PROBLEMS = [
    ({"train": {"epoch": 3}}, "train.epoch: is not a field of TrainConfig"),
    ({"trian": {}}, "trian: is not a field of RunConfig"),
    ({"train": {"epochs": "many"}}, "train.epochs: must be a valid integer"),
    ({"train": {"epochs": 0}}, "train.epochs: must be greater than or equal to 1, got 0"),
    ({"train": {"epochs": None}}, "train.epochs: must be a valid integer"),
    ({"train": {"epochs": 2.5}}, "train.epochs: must be a valid integer"),
    ({"train": {"epochs": True}}, "train.epochs: must be a number, got True"),
    ({"train": {"betas": [0.9, True]}}, "train.betas.1: must be a number, got True"),
    ({"train": {"class_weights": [1.0, False]}}, "train.class_weights.1: must be a number"),
    (
        {"train": {"augment": {"preset": "deit", "mixup": True}}},
        "train.augment.mixup: must be a n",
    ),
    ({"data": {"num_train": True}}, "data.num_train: must be a number, got True"),
    ({"data": {"loader_workers": False}}, "data.loader_workers: must be a number, got False"),
    ({"data": {"loader_workers": "x"}}, "data.loader_workers: must be 'auto' or be a valid int"),
    ({"data": {"normalisation": {"mean": [True], "std": [1]}}}, "data.normalisation.mean.0: must"),
    ({"data": {"normalisation": {"mean": [1], "std": [-1]}}}, "data.normalisation.std.0: must be"),
    ({"train": {"learning_rate": math.nan}}, "train.learning_rate: must be a finite number"),
    ({"train": {"learning_rate": math.inf}}, "train.learning_rate: must be a finite number"),
    ({"train": {"precision": "float8"}}, "train.precision: must be 'float32', 'auto', 'tf32'"),
    ({"train": 3}, "train: must be"),
    ({"train": {"augment": {"flip": "perhaps"}}}, "train.augment.flip: must be a valid boolean"),
    ({"model": {"blocks": []}}, "model.blocks:"),
    ({"model": {"blocks": {"operator": "softmax"}}}, "model.blocks:"),
    ({"model": {"blocks": [{"operator": "sofmax"}]}}, "model.blocks.0.operator: must be one of"),
    ({"model": {"blocks": [{}, {"conv_kernel": 4}]}}, "model.blocks.1.conv_kernel: must be odd"),
    ({"model": {"blocks": [{"mask": {"shape": "cubic"}}]}}, "model.blocks.0.mask.shape: must be"),
    (
        {"model": {"blocks": [{"mask": {"start": 0.9, "end": 0.1}}]}},
        "model.blocks.0.mask.start: must not exceed end=0.1, got 0.9",
    ),
    ({"model": {"patch_size": 3}}, "model.patch_size: must divide the image of (8, 8) pixels"),
    ({"model": {"image_size": [8, 8, 8]}}, "model.image_size"),
    ({"model": {"image_size": "8"}}, "model.image_size"),
    ({"model": {"image_size": True}}, "model.image_size"),
    ({"model": {"image_size": [0, 8]}}, "model.image_size.0: must be greater than or equal to 1"),
    ({"data": {"num_train": 0}}, "data.num_train"),
    ({"data": {"path": 3}}, "data.path"),
    ({1: 2}, "1: is not a field of RunConfig"),
    ({"line\nbreak": 2}, "line\\nbreak: is not a field of RunConfig"),
]


@pytest.mark.parametrize(("data", "start"), PROBLEMS, ids=[start for _, start in PROBLEMS])
def test_a_wrong_config_is_refused_in_one_sentence_with_its_path(data: object, start: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_config(data)
    assert start in one_line(caught.value)


@pytest.mark.parametrize(("data", "start"), PROBLEMS, ids=[start for _, start in PROBLEMS])
def test_a_wrong_file_is_named(tmp_path: Path, data: object, start: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError) as caught:
        read_run_config(path)
    assert one_line(caught.value).startswith(f"{path}: ")
    assert start in str(caught.value)


def configs_in(annotation: Any) -> Iterator[type[BaseModel]]:
    for kind in kinds_of(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind
        for part in get_args(kind):
            if not isinstance(part, str | int):
                yield from configs_in(part)


def all_configs() -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = [RunConfig, *(spec.options for spec in OPERATORS.values())]
    for config in found:  # which grows
        for field in config.model_fields.values():
            found += [one for one in configs_in(field.annotation) if one not in found]
    return found


def test_no_number_of_any_config_is_a_switch() -> None:
    """YAML reads yes, no, on and off as true and false, which pydantic takes for 1 and 0."""
    count = 0
    for config in all_configs():
        for name, field in config.model_fields.items():
            kinds = kinds_of(field.annotation)
            if bool in kinds or not {int, float} & {*kinds}:
                continue
            count += 1
            for value in (True, False):
                with pytest.raises(ConfigError) as caught:
                    config(**{name: value})
                assert f"{name}: must be a number, got {value}" in one_line(caught.value)
    assert count >= 70


@pytest.mark.parametrize(
    ("section", "name"),
    [
        (TrainConfig, "compile"),
        (DataConfig, "cache"),
        (partial(AugmentConfig, preset="deit"), "auto_augment"),
    ],
)
def test_off_is_a_word_although_yaml_reads_a_switch(
    section: Callable[..., Config], name: str
) -> None:
    assert getattr(section(**yaml.safe_load(f"{name}: off")), name) == "off"


@pytest.mark.parametrize("data", [None, [], [1, 2], "text", 3, 2.5, True], ids=repr)
def test_anything_but_a_mapping_is_refused(tmp_path: Path, data: object) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(data))
    for read in (lambda: run_config(data), lambda: read_run_config(path)):
        with pytest.raises(ConfigError, match="must be a mapping of RunConfig fields") as caught:
            read()
        one_line(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"model: [1, 2",
        b"a: b: c",
        b"\t- x",
        b"{" * 10_000,
        b"&a [*b]",
        b"--- 1\n--- 2\n",
        b"!!python/object/apply:os.system ['true']",
        b"!unknown x",
        b"? [list]\n: key",
        b"day: 2026-13-45",
        b"!!int many",
        b"!!float many",
        b"!!bool maybe",
        b"!!timestamp never",
        b"!!binary '\xc3\xa9'",
        b"digits: " + b"9" * 5000,
        b"control: \x01",
        b"\xff\xfe\xfa",
        b"\x00",
    ],
    ids=lambda content: repr(content)[:30],
)
def test_malformed_yaml_is_refused_in_one_sentence_with_its_file(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_run_config(path)
    assert one_line(caught.value).startswith(f"{path}: must be ")


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(max_examples=200)
def test_any_bytes_are_data_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        read_yaml(path)
    except ConfigError as error:
        one_line(error)


def test_a_missing_file_and_a_folder_without_one_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(ConfigError, match="must be a readable file") as caught:
            read_run_config(path)
        assert "No such file" in one_line(caught.value)


def test_a_config_that_contains_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "loop.yaml"
    path.write_text("&loop\ntrain: *loop\n")
    with pytest.raises(ConfigError) as caught:
        read_run_config(path)
    one_line(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["model", "train", "blocks", "mask", "x"]), inner)
        ),
        max_leaves=6,
    )
)
@settings(max_examples=200)
def test_any_plain_data_is_a_config_or_one_sentence(data: object) -> None:
    try:
        run = run_config(data)
    except ConfigError as error:
        one_line(error)
    else:
        assert run_config(run.to_data()) == run


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"shape": "constant", "end": 0.5}, {"shape": "constant", "end": 0.9}, True),
        ({"shape": "linear", "num_steps": 3}, {"shape": "linear", "num_steps": 5}, True),
        ({"shape": "step", "num_steps": 3}, {"shape": "step", "num_steps": 5}, False),
        ({"shape": "linear", "end": 0.5}, {"shape": "linear", "end": 0.9}, False),
    ],
)
def test_schedules_that_differ_in_ignored_fields_are_the_same_training(
    one: dict[str, object], other: dict[str, object], equal: bool
) -> None:
    digests = [
        digest(run_config({"model": {"blocks": [{"mask": mask}]}})) for mask in (one, other)
    ]
    assert (digests[0] == digests[1]) == equal
