"""What differentiates more than once: by torch's operations, or refused with the remedy."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from castling.config import BlockConfig, MaskSchedule
from castling.errors import ConfigError
from castling.operators import OPERATORS
from castling.operators.spec import LayerShape, TokenGrid


@pytest.fixture(
    params=[
        ("linear_angular", None),
        ("linear_angular", MaskSchedule(shape="constant", start_multiple=0.5)),
        ("taylor", MaskSchedule(shape="constant", start_multiple=0.5)),
    ],
    ids=str,
)
def layer(request: pytest.FixtureRequest) -> nn.Module:
    operator, mask = request.param
    torch.manual_seed(0)
    block = BlockConfig(operator=operator, num_heads=2, head_size=8, conv_kernel=3, mask=mask)
    grid = TokenGrid(height=3, width=2)
    return OPERATORS[operator].build(LayerShape(block=block, embed_width=12, grid=grid))


FORWARD_MODE = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
"""Torch's own, on first use."""
X = torch.randn(3, 6, 12, generator=torch.Generator().manual_seed(1))
ALONG = torch.randn(3, 6, 12, generator=torch.Generator().manual_seed(2))


def loss(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x).square().sum()


def test_a_gradient_may_have_a_graph_but_not_be_differentiated(layer: nn.Module) -> None:
    x = X.clone().requires_grad_()
    [plain] = torch.autograd.grad(loss(layer, x), x)
    [gradient] = torch.autograd.grad(loss(layer, x), x, create_graph=True)
    assert torch.equal(gradient, plain)
    with pytest.raises(ConfigError, match="CASTLING_NATIVE: must be 0"):
        torch.autograd.grad(gradient.sum(), x)


def test_the_operator_of_compiled_models_says_the_same() -> None:
    qkv = torch.randn(1, 6, 3, 2, 8, requires_grad=True)
    weight = torch.randn(2, 1, 3, 1)
    out, *_ = torch.ops.castling.mix_packed(qkv, weight, [0, 6, 1], None)
    [gradient] = torch.autograd.grad(out.square().sum(), qkv, create_graph=True)
    with pytest.raises(ConfigError, match="CASTLING_NATIVE: must be 0"):
        torch.autograd.grad(gradient.sum(), qkv)


@FORWARD_MODE
def test_the_operator_refuses_forward_mode_whose_result_would_be_a_constant() -> None:
    qkv, weight = torch.randn(1, 6, 3, 2, 8), torch.randn(2, 1, 3, 1)

    def operator(x: Tensor) -> Tensor:
        out: Tensor = torch.ops.castling.mix_packed(x, weight, [0, 6, 1], None)[0]
        return out

    with pytest.raises(ConfigError, match="CASTLING_NATIVE: must be 0"):
        torch.func.jvp(operator, (qkv,), (qkv,))
    with forward_ad.dual_level(), pytest.raises(ConfigError, match="CASTLING_NATIVE: must be 0"):
        operator(forward_ad.make_dual(qkv, qkv))


def test_what_the_operator_keeps_for_its_backward_pass_has_no_gradient() -> None:
    qkv = torch.randn(1, 6, 3, 2, 8, requires_grad=True)
    limit = torch.tensor(0.1)
    made = torch.ops.castling.mix_packed(qkv, torch.randn(2, 1, 3, 1), [0, 6, 1], limit)
    assert [part.requires_grad for part in made] == [True, False, False, False]


@FORWARD_MODE
def test_transforms_and_forward_mode_go_by_torchs_operations(layer: nn.Module) -> None:
    """Training and eval mode alike; in eval mode a branch notes its density, where it has one."""
    wide = layer.double()
    for mode in (True, False):
        wide.train(mode)
        exact = torch.autograd.functional.jvp(wide, X.double(), ALONG.double())[1].float()
        mapped = wide(X.double()).float()
        each = torch.autograd.functional.jacobian(lambda x: loss(wide, x), X.double()).float()
        layer.float().train(mode)
        torch.testing.assert_close(torch.func.jvp(layer, (X,), (ALONG,))[1], exact)
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(X, ALONG))).tangent
        torch.testing.assert_close(tangent, exact)
        by_image = torch.func.vmap(lambda x: layer(x[None])[0])
        torch.testing.assert_close(by_image(X), mapped)
        gradients = torch.func.vmap(torch.func.grad(lambda x: loss(layer, x[None])))
        torch.testing.assert_close(gradients(X), each)
        layer.double()


@FORWARD_MODE
def test_second_derivatives_of_transforms_are_right(layer: nn.Module) -> None:
    x = X[:1]
    ours = torch.func.hessian(lambda x: loss(layer, x))(x)
    wide = layer.double()
    exact = torch.func.hessian(lambda x: loss(wide, x))(x.double())
    torch.testing.assert_close(ours.double(), exact, rtol=1e-3, atol=1e-3)
