"""A dimension with a new field of the model is two files: those of the documentation's page."""

import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from castling.blocks import parts
from castling.config import BlockConfig


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-a-dimension.md").read_text(encoding="utf-8")
FIELD, PART, ENTRY = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
RECIPE = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1]

pytestmark = pytest.mark.timeout(240)

PROGRAM = """
import sys
from dataclasses import replace
from random import Random

from castling.blocks.parts import BRANCH_PARTS
from search.config import read_recipe
from search.train import train_config
from space.contract import dimension_problems
from space.cost import cost
from space.decode import decode
from space.measure import measure_cost

recipe, config, out = sys.argv[1:]
space = read_recipe(recipe).build_space()
[dimension] = [each for each in space.dimensions if "layer_scale" in each.target.path]
assert dimension_problems(dimension, space.base) == []
point = space.sample(Random(0))
model = decode(space, point).model
assert model.blocks[0].layer_scale > 0.0
assert cost(model) == measure_cost(model)
settings = {"train.epochs": 1, "model.blocks.*.layer_scale": 0.25}
assert train_config(config, out, settings=settings).params > 0
BRANCH_PARTS["layer_scale"] = replace(BRANCH_PARTS["layer_scale"], params=lambda _: 0)
[problem] = dimension_problems(dimension, space.base)
assert "layer_scale = 0.5" in problem and "closed-form parameters of block 0" in problem, problem
"""
"""What a user does with the dimension; at last, its price is forgotten."""


def inserted(path: Path, before: str, text: str) -> None:
    """Put a text before the first line that begins with another."""
    source = path.read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(before)}", source, re.MULTILINE)
    assert found is not None
    path.write_text(source[: found.start()] + text + source[found.start() :], encoding="utf-8")


def home(part: object) -> str:
    """Return the path of the file that defines something, below the repository's root."""
    return Path(inspect.getsourcefile(part)).relative_to(ROOT).as_posix()  # type: ignore[arg-type]


def test_a_dimension_of_a_new_field_is_two_files_and_priced(tmp_path: Path) -> None:
    for package in ("castling", "space", "reports", "search"):
        shutil.copytree(ROOT / package, tmp_path / package)
    assert f"`{home(BlockConfig)}`" in PAGE
    assert f"`{home(parts)}`" in PAGE
    inserted(tmp_path / home(BlockConfig), "    @property\n    def attention_width", f"{FIELD}\n")
    inserted(tmp_path / home(parts), "BRANCH_PARTS", f"{PART}\n\n")
    inserted(tmp_path / home(parts), '    "drop_path":', ENTRY)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "config.yaml").write_text("model: {embed_width: 24}\n")
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, "recipe.yaml", "config.yaml", "out"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
