import pytest

from castling.config import RunConfig, TrainConfig
from castling.errors import ConfigError
from castling.training.seeds import seeded, trial_seeds
from castling.training.start import check_start


def test_a_number_is_shared_by_all_trials_and_begins_their_repeats() -> None:
    assert trial_seeds(7, 0, 3, 1) == (7,)
    first, second = (trial_seeds(7, search, trial, 3) for search, trial in ((0, 3), (1, 4)))
    assert first == second
    assert first[0] == 7
    assert len({*first}) == 3
    assert trial_seeds(7, 0, 0, 2) == first[:2]  # more repeats change none of the earlier ones


def test_a_trials_seeds_are_its_own() -> None:
    found = {
        (search, trial): trial_seeds("trial", search, trial, 3)
        for search in range(5)
        for trial in range(40)
    }
    drawn = [seed for seeds in found.values() for seed in seeds]
    assert len({*drawn}) == len(drawn)
    assert found == {key: trial_seeds("trial", *key, 3) for key in found}
    for seed in drawn:
        assert seeded(RunConfig(), seed).train.fixed_seed() == seed


def test_without_a_search_there_is_no_trial() -> None:
    with pytest.raises(ConfigError, match=r"train.seed: must be a number outside of a search"):
        check_start(RunConfig(train=TrainConfig(seed="trial")))


@pytest.mark.parametrize("seed", ["x", -1, 2**31, 1.5])
def test_a_bad_seed_is_one_sentence(seed: object) -> None:
    with pytest.raises(ConfigError, match=r"^seed: must be .* or be 'trial'") as caught:
        TrainConfig(seed=seed)
    assert "\n" not in str(caught.value)
