import pytest
import torch

from castling.operators.modules.gates import Gated, Gates, cost_penalty


class Part(Gated):
    def __init__(self, most_macs: int, expected: float) -> None:
        super().__init__()
        self.most_macs = most_macs
        self.expected = torch.tensor(expected, requires_grad=True)

    def expected_macs(self) -> torch.Tensor:
        return self.expected

    def settled(self) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
        return {}, {}


def test_gates_are_open_as_often_as_their_probability() -> None:
    torch.manual_seed(0)
    gates = Gates(4)
    with torch.no_grad():
        gates.t.copy_(torch.tensor([-2.0, 0.0, 1.5, 30.0]))
    drawn = torch.stack([gates().detach() for _ in range(4000)])
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), gates.probabilities().detach(), rtol=0.0, atol=0.03)


def test_the_gradient_is_that_of_the_soft_draw() -> None:
    gates = Gates(1)
    torch.manual_seed(3)
    gates().sum().backward()
    torch.manual_seed(3)
    t = gates.t.detach().double().requires_grad_()
    uniform = torch.rand(1).clamp(1e-6, 1.0 - 1e-6).double()
    (t + (uniform / (1.0 - uniform)).log()).sigmoid().sum().backward()
    assert gates.t.grad is not None
    assert t.grad is not None
    torch.testing.assert_close(gates.t.grad.double(), t.grad, rtol=1e-4, atol=1e-6)


def test_decisions_draw_nothing() -> None:
    gates = Gates(2).eval()
    with torch.no_grad():
        gates.t.copy_(torch.tensor([-0.1, 0.1]))
    before = torch.random.get_rng_state()
    assert gates().tolist() == [0.0, 1.0]
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("expected", "target", "penalty"), [(300.0, 1.0, 0.0), (150.0, 0.5, 0.0), (300.0, 0.5, 1.0)]
)
def test_penalty_is_the_squared_relative_distance(
    expected: float, target: float, penalty: float
) -> None:
    parts = [Part(100, 0.0), Part(200, expected)]
    assert float(torch.as_tensor(cost_penalty(list(parts), target)).detach()) == pytest.approx(
        penalty
    )
    assert cost_penalty([], target) == 0.0
