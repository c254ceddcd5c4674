"""Recipes and exported configs with something hostile in them: one sentence, exit code 2."""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from hypothesis import HealthCheck, event, given, settings, strategies as st
from idx_files import write_blank_images

from castling.config import BackboneConfig, LayerChoice, RunConfig
from castling.errors import LONGEST_FIELD
from search.cli import main
from search.config import read_recipe
from search.recipes import RECIPES as SHIPPED
from space.decode import decode
from space.feasible import default_point


pytestmark = pytest.mark.timeout(1_800)  # the thorough profile draws 600 examples of each


class AcceptedError(BaseException):
    """What was read is valid: instead of training, the command ends here."""


class Raw(str):
    """A piece of YAML that is written as it is."""


BOMB = "{a: &a [x, x, x, x, x, x, x, x, x], " + ", ".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "{a: &a {x: 1}, " + ", ".join(
    f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}]}}"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
"""Billion laughs, as lists and as merged mappings."""
NUMBERS = (-1, 0, 10**6 + 1, 10**9, 10**12, 2**31, 2**63 - 1, 10**30, -(10**30), 1e308, -1e308)
TEXTS = (
    "", "x" * 20_000, "../../etc/passwd", "/etc/passwd", "~root/x", "folder:../..", "a\nb: c",
    "\x1b[2J", "\u202egnp.exe", "\uff11\uff12", "1e999", "9" * 4_000, "<script>alert(1)</script>",
    "{0.__class__}", "%s%n", "optuna:__doc__", "hf-hub:evil/model", "__class__", "local-dir:/tmp",
)  # fmt: skip
PIECES = tuple(
    Raw(text)
    for text in (
        "!!python/object/apply:os.system ['touch owned']", "!!python/name:os.system",
        "!!python/object/new:type [x, [], {}]", "!!binary aGVsbG8=", "!!set {a, b}", "!unknown x",
        "!!omap [a: 1]", "0x" + "f" * 9_000, "1:" * 3_000 + "1", "*nowhere", "&a [*a]",
        "&a {<<: *a}", "[" * 10_000, "{a: " * 10_000, "[" * 10_000 + "]" * 10_000, "2026-13-45",
        "0001-01-01T00:00:00+23:59", ".nan", ".inf", "-.inf", "{x: 1, x: 2}", '"\\0"',
        '"\\ud800"', BOMB + "}", MERGES + "}", "!!int many", "!!float x", "? [a]", "9" * 5_000,
        "[" + "a, " * 3_000 + "a]",
    )
)  # fmt: skip
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
HOSTILE = st.sampled_from((*NUMBERS, *TEXTS, *PIECES)) | PLAIN
KEYS = st.sampled_from(("", "x", "<<", "__class__", "../x", "model_config", "self", "y" * 5_000))


def render(value: Any) -> str:
    """Return YAML in flow style, pieces as they are."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        pairs = (f"{json.dumps(str(key))}: {render(entry)}" for key, entry in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(render, value)) + "]"
    if isinstance(value, float):
        return str(yaml.safe_dump(value)).removesuffix("\n...\n")
    return json.dumps(value)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in plain data."""
    yield path
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(entry, (*path, key))


def changed(data: Any, kind: str, path: tuple[Any, ...], key: str, value: Any) -> Any:
    """Return a copy with a value replaced, left out, or beside one that is foreign."""
    copy = json.loads(json.dumps(data))
    if kind == "extra":
        return {**copy, key: value}
    holder = copy
    for step in path[:-1]:
        holder = holder[step]
    if kind == "value":
        holder[path[-1]] = value
    else:
        del holder[path[-1]]
    return copy


@st.composite
def malformed(draw: st.DrawFn, documents: list[Any]) -> bytes:
    """Draw the bytes of a document with one to three things changed."""
    data: Any = draw(st.sampled_from(documents))
    text = None
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["value"] * 6 + ["missing", "extra", "whole", "bytes"]))
        spots = [path for path in places(data) if path] if isinstance(data, dict) else []
        if kind == "whole" or not spots:
            data = draw(HOSTILE)
        elif kind == "bytes":
            text = spoilt(draw, render(data).encode())
        else:
            path, key, value = draw(st.sampled_from(spots)), draw(KEYS), draw(HOSTILE)
            data = changed(data, kind, path, key, value)
        if any(isinstance(value, Raw) for value in leaves(data)):
            break  # a copy would lose the piece
    return text if text is not None else render(data).encode(errors="surrogatepass")


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from leaves(entry)
    else:
        yield value


def spoilt(draw: st.DrawFn, content: bytes) -> bytes:
    """Return bytes cut off, or with others put among them."""
    at = draw(st.integers(0, len(content)))
    piece = draw(
        st.binary(max_size=20)
        | st.sampled_from(
            [b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\x1b", b"\xef\xbb\xbf", b"---\n"]
        )
    )
    return content[:at] + piece + draw(st.sampled_from([b"", content[at:]]))


def outcome(*arguments: object) -> tuple[int | None, str]:
    """Run the command line in this process; None stands for input that is accepted."""
    said = io.StringIO()
    ends = ("search.driver.make_run_folder", "space.measure.measure_model", "search.train._claim")
    with ExitStack() as stack:
        for place in ends:
            stack.enter_context(patch(place, side_effect=AcceptedError))
        stack.enter_context(patch.object(sys, "argv", ["castling", *map(str, arguments)]))
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(said))
        try:
            main()
        except AcceptedError:
            return None, said.getvalue()
        except SystemExit as end:
            return int(end.code or 0), said.getvalue()
    raise AssertionError("neither refused nor accepted")


def assert_one_sentence(code: int | None, said: str) -> None:
    if code is None:
        return
    assert code == 2, said
    assert said.startswith("castling: ")
    assert len(said.splitlines()) == 1
    assert len(said) < 2_100 + LONGEST_FIELD
    assert said.strip().isprintable()
    for material in ("Traceback", "pydantic", "validation error"):
        assert material not in said


FULL = {
    "name": "all fields", "space": "digits", "trials": 3, "seed": 1, "workers": 1,
    "budget": {"max_macs": "400k", "max_params": 60_000}, "sampler": "random",
    "objectives": [{"metric": "top1", "direction": "max"}, {"metric": "macs", "direction": "min"}],
    "dimensions": [
        {"target": "model.blocks.*.operator", "choices": ["softmax", "swin"], "tie": "stage"},
        {"target": "train.label_smoothing", "low": 0.0, "high": 0.2},
        {"target": "model.embed_width", "low": 16, "high": 48, "step": 16},
        {"target": "train.warmup", "low": 0.01, "high": 0.1, "log": True},
    ],
    "points": [{"model.embed_width": 16}],
    "set": {
        "data.name": "digits", "train.epochs": 2, "model.blocks.0.num_heads": 2,
        "model.depth": 2, "train.distill": None, "train.initial": None,
    },
}  # fmt: skip
del FULL["set"]["model.depth"], FULL["set"]["model.blocks.0.num_heads"]  # type: ignore[attr-defined]
RECIPES = [FULL, *(yaml.safe_load(recipe.text) for recipe in SHIPPED.values())]


def exported() -> list[Any]:
    """Return configs as `castling export` writes them: of a CastlingViT and of timm's model."""
    runs = [
        decode(space, default_point(space))
        for space in (read_recipe(name).build_space() for name in ("digits", "operators"))
    ]
    levit = BackboneConfig(
        backbone="levit_128s", image_size=64, num_classes=10, blocks=(LayerChoice(),) * 11
    )
    return [run.to_data() for run in (*runs, RunConfig(model=levit))]


CONFIGS = exported()
THOROUGH = settings(
    max_examples=3 * settings().max_examples,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, so that what a file makes castling write is seen."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_written_nothing(place: Path, *known: str) -> None:
    assert {entry.name for entry in place.rglob("*")} <= set(known)


@pytest.mark.parametrize(
    "text",
    [
        "self: 1",
        "set: {self: 1}",
        "budget: {self: 1}",
        "trials: 3\ntrials: 4",
        "workers: 1000000000000",
        "trials: 1000000000000",
        "retries: 1000000000000",
        "trial_minutes: 1.0e+300",
        'set: {train.initial: "a\\0b"}',
        "set: {model.embed_width: 1000000000}",
        "dimensions: [{target: model.depth, low: 2, high: 1000000000}]",
        "dimensions: [{target: train.seed, low: 0, high: 10000000000000000000}]",
        "sampler: optuna:CmaEsSampler\nobjectives: [{metric: top1, direction: max}]",
        f"budget: {{max_macs: '{'9' * 5_000}'}}",
    ],
    ids=lambda text: text[:50],
)
def test_a_hostile_recipe_is_one_sentence(text: str, place: Path) -> None:
    (place / "recipe.yaml").write_text(text)
    code, said = outcome("search", "recipe.yaml", "--out", "run")
    assert code == 2
    assert_one_sentence(code, said)
    assert_written_nothing(place, "recipe.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "model: {self: 1}",
        "model: {backbone: levit_128s, blocks: softmax, options: {backbone: 1}}",
        "model: {backbone: levit_128s, blocks: softmax, options: {self: 1}}",
        "model: {backbone: levit_128s, blocks: softmax, options: {model_name: hf-hub:evil/x}}",
        "model: {backbone: hf-hub:evil/x, blocks: softmax}",
        "model: {backbone: 'local-dir:/tmp', blocks: softmax}",
        "model: {backbone: levit_128s, blocks: softmax, options: {pretrained: true}}",
        "model: {backbone: levit_128s, blocks: softmax, image_size: 1000000}",
        "train: {batch_size: 1000000000000}",
        "train: {epochs: 1000000000000}",
        "train: {distill: {teacher: resnet18, weights: x, token_top: 1000000000000}}",
    ],
)
def test_a_hostile_config_is_one_sentence(text: str, place: Path) -> None:
    (place / "config.yaml").write_text(text)
    code, said = outcome("measure", "config.yaml")
    assert code == 2
    assert_one_sentence(code, said)


@pytest.mark.parametrize("value", ["[" * 10_000, "!!int many", "*x", "{a: 1, a: 2}", '"\\0"'])
def test_a_hostile_setting_is_one_sentence(value: str, place: Path) -> None:
    code, said = outcome("search", "digits", "--set", f"train.epochs={value}", "--out", "run")
    assert code == 2
    assert_one_sentence(code, said)
    assert_written_nothing(place)


@given(content=malformed(RECIPES))
@THOROUGH
def test_a_malformed_recipe_is_one_sentence(content: bytes, place: Path) -> None:
    (place / "recipe.yaml").write_bytes(content)
    code, said = outcome("search", "recipe.yaml", "--out", "run")
    event("accepted" if code is None else "refused")
    assert_one_sentence(code, said)
    assert_written_nothing(place, "recipe.yaml")


@pytest.mark.parametrize("command", ["measure", "train"])
@given(content=malformed(CONFIGS))
@THOROUGH
def test_a_malformed_exported_config_is_one_sentence(
    content: bytes, command: str, place: Path
) -> None:
    (place / "best").mkdir(exist_ok=True)
    (place / "best" / "config.yaml").write_bytes(content)
    options = ("--out", "trained") if command == "train" else ()
    code, said = outcome(command, "best", *options)
    event("accepted" if code is None else "refused")
    assert_one_sentence(code, said)
    assert_written_nothing(place, "best", "config.yaml")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe["space"])
def test_a_valid_recipe_is_accepted_in_any_style(recipe: Any, place: Path) -> None:
    if recipe["space"] == "fashion-mnist":  # Debian's package is not everywhere
        write_blank_images(place, train=20_000, test=10)
        recipe = {**recipe, "set": {**recipe["set"], "data.path": str(place)}}
    anchored = f"trials: &n {recipe['trials']}\n"
    rest = {key: value for key, value in recipe.items() if key != "trials"}
    for text in (render(recipe), yaml.safe_dump(recipe), anchored + yaml.safe_dump(rest)):
        (place / "recipe.yaml").write_text(f"# a comment\n{text}\n")
        assert outcome("search", "recipe.yaml", "--out", "run") == (None, "")


@pytest.mark.parametrize("index", range(len(CONFIGS)))
def test_a_valid_config_is_accepted(index: int, place: Path) -> None:
    (place / "config.yaml").write_text(render(CONFIGS[index]))
    assert outcome("measure", place) == (None, "")
