"""Our Ray Tune scheduler: a thin bridge from Tune's reports to the rungs that judge trials."""

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from search.execution.searcher import StudySearcher


class RungScheduler(FIFOScheduler):
    """Runs trials in the order they come and stops, for good, those that do not go on."""

    def __init__(self, searcher: StudySearcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._searcher = searcher

    def on_trial_result(
        self,
        tune_controller: Any,  # noqa: ARG002 - Tune's signature
        trial: Trial,
        result: dict[str, Any],
    ) -> str:
        """Return Tune's word for whether a trial is trained on."""
        going_on = self._searcher.goes_on(trial.trial_id, result)
        return FIFOScheduler.CONTINUE if going_on else FIFOScheduler.STOP

    def __getstate__(self) -> dict[str, Any]:
        """Pickle no state: Tune stores its scheduler, but the curves on disk are the truth."""
        return {}
