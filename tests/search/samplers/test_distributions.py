import pytest
from hypothesis import given, strategies as st
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.study import create_study

from search.samplers.distributions import distribution, distributions
from space.domain import Choice, Domain, FloatRange, IntRange
from space.presets import SPACES


domains = st.one_of(
    st.lists(st.sampled_from([1, 2, 8, "a", "b", None, 0.5]), min_size=1, unique=True).map(
        lambda values: Choice(tuple(values))
    ),
    st.tuples(st.integers(-5, 5), st.integers(0, 6), st.integers(1, 3)).map(
        lambda t: IntRange(t[0], t[0] + t[1] * t[2], t[2])
    ),
    st.tuples(st.floats(1e-4, 1.0), st.floats(0.0, 5.0), st.booleans()).map(
        lambda t: FloatRange(t[0], t[0] + t[1], t[2])
    ),
)


@given(domains, st.integers(0, 100))
def test_optuna_draws_only_values_of_the_domain(domain: Domain, seed: int) -> None:
    study = create_study(sampler=RandomSampler(seed=seed))
    value = study.ask({"x": distribution(domain)}).params["x"]
    assert value in domain


@given(domains)
def test_ends_of_the_domain_can_be_drawn(domain: Domain) -> None:
    adapted: BaseDistribution = distribution(domain)
    for value in domain.extremes():
        assert adapted._contains(adapted.to_internal_repr(value))


@pytest.mark.parametrize("name", list(SPACES))
def test_every_name_of_a_space_has_a_distribution(name: str) -> None:
    space = SPACES[name]()
    assert list(distributions(space)) == list(space.domains)
