"""A kind of domain is one class: it is searched by every sampler, stored, and read back."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest
from search_bridge import bridge

from search.config import SearchConfig
from search.samplers import SAMPLERS
from search.study.asking import ask
from search.study.storage import open_storage, open_study
from search.testing.studies import trained
from space.domain import Domain, Forms, Value
from space.kinds import DOMAINS
from space.point import Space


@dataclass(frozen=True, slots=True)
class Powers(Domain):
    """Powers of two from 2^low to 2^high, both included."""

    low: int
    high: int
    kind: ClassVar[str] = "powers"

    def all_values(self) -> list[int]:
        return [2**power for power in range(self.low, self.high + 1)]

    @property
    def is_ordered(self) -> bool:
        return True

    def __contains__(self, value: object) -> bool:
        return type(value) is int and value in self.all_values()

    def extremes(self) -> list[int]:
        return [2**self.low, 2**self.high]

    def to_unit(self, value: int) -> float:
        return (value.bit_length() - 1 - self.low) / (self.high - self.low)

    def from_unit(self, place: float) -> Value:
        values = self.all_values()
        return values[min(int(place * len(values)), len(values) - 1)]

    def form(self, forms: Forms[Any]) -> Any:
        return forms.categorical(tuple(self.all_values()))


SIZES: dict[str, Any] = {
    "target": "model.blocks.*.head_size",
    "tie": "each",
    "domain": {"kind": "powers", "low": 2, "high": 5},
}


@pytest.fixture(autouse=True)
def powers() -> Iterator[None]:
    with DOMAINS.temporarily(Powers.kind, Powers):
        yield


def search(sampler: str) -> SearchConfig:
    return SearchConfig.from_data(
        {"dimensions": [SIZES], "sampler": sampler, "budget": {"max_macs": "700k"}, "trials": 9}
    )


@pytest.mark.parametrize("sampler", [name for name, spec in SAMPLERS.items() if not spec.is_slow])
def test_every_sampler_proposes_values_of_a_new_kind_of_domain(
    sampler: str, tmp_path: Path
) -> None:
    """The open study of a few trials with results, one of them asked again after a crash."""
    config = search(sampler)
    study = bridge(tmp_path, config).study
    for number in range(7):
        proposal = study.propose()
        assert proposal is not None
        sizes = [block.head_size for block in proposal.run.model.blocks]
        assert set(sizes) <= {4, 8, 16, 32}
        study.finish(proposal.trial, trained(0.5 + sum(sizes) / 1e4, epochs=number))
    context = config.context(config.build_space())
    stored = open_study(open_storage(tmp_path, None), config.objectives)
    unfinished = stored.ask()
    sampler_ = SAMPLERS[sampler].make(context, 3)
    again = ask(stored, sampler_, context.space.domains, unfinished._trial_id)
    context.space.check(again.params)


def test_candidates_of_a_new_kind_of_domain_are_changed_and_encoded() -> None:
    config = search("pareto")
    problem, rng = config.context(config.build_space()).problem, Random(0)
    point = problem.sample(rng)
    places = [at for at, domain in enumerate(problem._domains) if isinstance(domain, Powers)]
    seen = {problem.mutate(point, rng)[at] for at in places for _ in range(30)}
    assert seen == {4, 8, 16, 32}
    assert problem._domains[places[0]].features(8) == [pytest.approx(-1 / 3)]


def test_a_space_with_a_new_kind_of_domain_is_stored() -> None:
    space = search("random").build_space()
    assert Space.from_data(space.to_data()).domains == space.domains
    data = space.to_data()
    [written] = [each for each in data["dimensions"] if each["domain"]["kind"] == "powers"]
    assert written["domain"] == {"kind": "powers", "low": 2, "high": 5}
