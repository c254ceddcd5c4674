"""Writes the trials of a search, with records and configs, to its Optuna study."""

from collections.abc import Mapping, Sequence

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from castling.config import RunConfig
from reports.records import CONFIG_ATTRIBUTE, RECORD_ATTRIBUTE, RUNGS_ATTRIBUTE, Record
from space.point import Point


class TrialStore:
    """An Optuna study and its storage; methods take the numbers of trials.

    Args:
        study: as `open_study` returns it.
        storage: the study's.
    """

    def __init__(self, study: optuna.Study, storage: BaseStorage) -> None:
        self.study, self._storage = study, storage
        self._study_id = storage.get_study_id_from_name(study.study_name)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, in the order of their numbers; callers must not change them."""
        return self.study.get_trials(deepcopy=False)

    @property
    def num_trials(self) -> int:
        """Number of trials, which is the number of the next."""
        return len(self.trials)

    def identity(self, number: int) -> int:
        """Return the storage's number of a trial."""
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def trial(self, number: int) -> Trial:
        """Return a trial that has not ended."""
        return Trial(self.study, self.identity(number))

    def enqueue(self, point: Point, *, skip_if_exists: bool = False) -> None:
        """Enqueue a point for the next trial."""
        self.study.enqueue_trial(dict(point), skip_if_exists=skip_if_exists)

    def tell(
        self, number: int, values: Sequence[float] | None = None, state: TrialState | None = None
    ) -> None:
        """End a trial with the values of the objectives, or in another state."""
        self.study.tell(number, values, state=state)

    def set_intermediate_value(self, number: int, step: int, value: float) -> None:
        """Store a trial's objective after a step."""
        self._storage.set_trial_intermediate_value(self.identity(number), step, value)

    def set_record(self, record: Record) -> None:
        """Store a trial's record, which replaces an earlier one."""
        self._set(record.trial, RECORD_ATTRIBUTE, record.to_data())

    def set_config(self, number: int, run: RunConfig) -> None:
        """Store a trial's training config."""
        self._set(number, CONFIG_ATTRIBUTE, run.to_data())

    def config(self, number: int) -> object:
        """Return a trial's training config as plain data; None where there is none."""
        return self._storage.get_trial(self.identity(number)).user_attrs.get(CONFIG_ATTRIBUTE)

    def copy_config(self, source: int, number: int) -> None:
        """Give a trial the config of another, unless it has the same."""
        config = self.config(source)
        if config is not None and config != self.config(number):
            self._set(number, CONFIG_ATTRIBUTE, config)

    def set_rungs(self, number: int, reached: Mapping[int, Mapping[str, float]]) -> None:
        """Store a trial's measured objectives at each rung."""
        self._set(
            number, RUNGS_ATTRIBUTE, {str(rung): dict(values) for rung, values in reached.items()}
        )

    def _set(self, number: int, attribute: str, value: object) -> None:
        self._storage.set_trial_user_attr(self.identity(number), attribute, value)
