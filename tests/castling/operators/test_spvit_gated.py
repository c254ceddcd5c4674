import itertools

import pytest
import torch

from castling.config import BlockConfig, ModelConfig
from castling.errors import ConfigError
from castling.model.check import check
from castling.operators import OPERATORS, TokenGrid
from castling.operators.modules.spvit_gated import GatedSinglePath
from castling.operators.spec import LayerShape
from castling.operators.spvit_gated import CANDIDATES


def layer(operator: str = "spvit_gated", *, prefix: int = 0) -> LayerShape:
    options = {"bypass": True} if prefix and operator.startswith("spvit") else {}
    return LayerShape(
        block=BlockConfig(operator=operator, num_heads=3, head_size=4, options=options),
        embed_width=10,
        grid=TokenGrid(height=3, width=4, num_prefix=prefix),
    )


def gated(logits: tuple[float, float, float], *, prefix: int = 0) -> GatedSinglePath:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        module = GatedSinglePath(layer(prefix=prefix))
        for convolution in (module.conv1, module.conv3):
            torch.nn.init.normal_(convolution.scores, mean=1.0, std=0.01)
            torch.nn.init.normal_(convolution.norm.running_mean)
    with torch.no_grad():
        module.gates.t.copy_(torch.tensor(logits))
    return module


def tokens(prefix: int = 0) -> torch.Tensor:
    return torch.randn(3, 12 + prefix, 10, generator=torch.Generator().manual_seed(5))


DECISIONS = list(itertools.product((-9.0, 9.0), repeat=3))


@pytest.mark.parametrize("logits", DECISIONS, ids=str)
@pytest.mark.parametrize("prefix", [0, 1])
def test_the_first_shut_gate_decides_and_the_chosen_operator_computes_the_same(
    logits: tuple[float, float, float], prefix: int
) -> None:
    module = gated(logits, prefix=prefix).eval()
    fields, state = module.settled()
    name = fields["operator"]
    assert name == CANDIDATES[next((i for i, t in enumerate(logits) if t < 0), 3)]
    chosen = OPERATORS[name].build(layer(name, prefix=prefix))
    chosen.load_state_dict(state)
    x = tokens(prefix)
    assert torch.equal(module(x), chosen.eval()(x))


@pytest.mark.parametrize("logits", DECISIONS, ids=str)
def test_training_computes_the_drawn_candidate(logits: tuple[float, float, float]) -> None:
    """With logits so extreme the draw is the decision; batch norms use the batch in both."""
    certain = tuple(100.0 * t for t in logits)
    module = gated((certain[0], certain[1], certain[2]))
    fields, state = module.settled()
    name = fields["operator"]
    chosen = OPERATORS[name].build(layer(name))
    chosen.load_state_dict(state)
    x = tokens()
    torch.testing.assert_close(module(x), chosen(x), rtol=1e-5, atol=1e-6)


def test_gates_of_shut_candidates_learn_too() -> None:
    module = gated((0.0, 0.0, 0.0))
    torch.manual_seed(0)
    for _ in range(64):
        module(tokens()).square().sum().backward()
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.any(), key


def test_expected_cost_is_that_of_many_draws() -> None:
    module = gated((1.0, 0.3, -0.4))
    p = module.gates.probabilities().detach().double()
    costs = [OPERATORS[name].macs(layer(name)) for name in CANDIDATES]
    shares = [1 - p[0], p[0] * (1 - p[1]), p[0] * p[1] * (1 - p[2]), p.prod()]
    expected = sum(float(share) * cost for share, cost in zip(shares, costs, strict=True))
    assert module.expected_macs().item() == pytest.approx(expected, rel=1e-5)


def test_a_class_token_is_refused_unless_it_may_pass_by() -> None:
    with pytest.raises(ConfigError, match=r"blocks\.0\.operator: must have the option bypass"):
        check(ModelConfig(pooling="cls", blocks=(BlockConfig(operator="spvit_gated"),)))


def test_spaces_do_not_offer_it() -> None:
    assert not OPERATORS["spvit_gated"].searchable
