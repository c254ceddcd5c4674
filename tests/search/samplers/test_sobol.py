import optuna

from search.samplers.distributions import distributions
from search.samplers.sobol import SobolSampler
from space.presets import SPACES


def proposals(seed: int, number: int) -> list[dict[str, object]]:
    space = distributions(SPACES["digits"]())
    study = optuna.create_study(sampler=SobolSampler(SPACES["digits"](), seed))
    return [study.ask(space).params for _ in range(number)]


def test_every_choice_comes_equally_often() -> None:
    drawn = [point["model.blocks.0.operator"] for point in proposals(0, 64)]
    assert drawn.count("softmax") == drawn.count("linear_angular") == 32
    widths = [point["model.embed_width"] for point in proposals(0, 64)]
    assert all(6 <= widths.count(width) <= 12 for width in range(16, 65, 8))


def test_the_sequence_goes_on_where_it_was_and_depends_on_the_seed() -> None:
    assert proposals(0, 8)[:4] == proposals(0, 4)
    assert proposals(0, 4) != proposals(1, 4)


def test_points_lie_in_the_space() -> None:
    space = SPACES["digits"]()
    for point in proposals(3, 32):
        space.check(point)
