import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from memory import cuda_autocast
from torch._subclasses.fake_tensor import FakeTensorMode

from castling.config import BlockConfig
from castling.errors import ConfigError
from castling.kernels import fused, paths
from castling.operators.modules.linear_angular import LinearAngularAttention
from castling.operators.spec import LayerShape, TokenGrid


pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
CASES = Path(__file__).with_name("triton_cases.py")
BOUNDS = {"bfloat16": 2**-7, "float16": 2**-10}
"""Half types round the output and the gradients once; everything else is float32."""


def _check(*arguments: str, interpret: bool) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TRITON_INTERPRET", None)
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run(
        [sys.executable, str(CASES), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    compared = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(compared) >= 6
    for name, errors in compared:
        assert max(errors) < BOUNDS.get(name.split("-")[0], 2e-6), (name, errors)


def test_the_kernels_are_the_formula_in_tritons_interpreter() -> None:
    _check(interpret=True)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_kernels_are_the_formula_at_the_fields_sizes() -> None:
    _check("--thorough", interpret=True)


@pytest.mark.gpu
@pytest.mark.parametrize("thorough", [[], ["--thorough"]])
def test_the_kernels_are_the_formula_on_a_gpu(thorough: list[str]) -> None:
    _check("--device", "cuda", *thorough, interpret=False)


def _layer() -> LinearAngularAttention:
    config = BlockConfig(operator="linear_angular", num_heads=2, head_size=32, mask=None)
    shape = LayerShape(block=config, embed_width=64, grid=TokenGrid(height=8, width=8))
    return LinearAngularAttention(shape)


def test_shapes_and_types_are_known_without_values() -> None:
    with FakeTensorMode(), torch.device("cuda"), paths.forced(layer="triton", rms=True):
        x = torch.empty(2, 64, 64, requires_grad=True)
        with cuda_autocast():
            out = _layer()(x)
        assert (out.shape, out.dtype, out.device.type) == (x.shape, torch.bfloat16, "cuda")


def test_sizes_that_do_not_fit_are_refused() -> None:
    fused.register()
    with FakeTensorMode():
        qkv, weight = torch.empty(1, 4, 3, 2, 16), torch.empty(2, 1, 3, 1)
        with pytest.raises(ConfigError, match="as many tokens as there are queries"):
            torch.ops.castling.mix_added(qkv, weight, None, [0, 5, 1])
        with pytest.raises(ConfigError, match="of odd sides"):
            torch.ops.castling.mix_added(qkv, weight[:, :, :2], None, [0, 4, 1])
        with pytest.raises(ConfigError, match="at most 128"):
            torch.ops.castling.mix_added(torch.empty(1, 4, 3, 2, 160), weight, None, [0, 4, 1])
        with pytest.raises(ConfigError, match="must be of shape"):
            torch.ops.castling.mix_added(qkv, weight, torch.empty(1, 2, 3, 16), [0, 4, 1])


@pytest.mark.parametrize(
    ("size", "room", "fits"),
    [(64, 48 * 1024, True), (65, 99 * 1024, False), (128, 227 * 1024, True)],
)
def test_heads_that_exceed_the_shared_memory_fall_back(size: int, room: int, fits: bool) -> None:
    with FakeTensorMode(), patch.object(fused, "shared_memory", lambda _: room):
        qkv = torch.empty(2, 16, 3, 2, size, device="cuda", dtype=torch.bfloat16)
        reason = fused.objection(qkv, torch.empty(2, 1, 3, 3, device="cuda"))
    assert bool(reason) != fits
    assert fits or f"{room:,} bytes" in reason
