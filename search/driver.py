"""The driver: from a recipe to a run folder with trained trials."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from castling.data.index import INDEX_FILE, IndexFile
from castling.errors import ConfigError, RunFolderError
from castling.training.checkpoint import remove_checkpoint
from castling.training.data import TrainingData, training_data
from castling.training.seeds import seeded
from castling.training.summary import describe
from castling.training.teacher import check_weights
from reports.database import complete_url
from reports.driver import Driver
from reports.front import front_of
from reports.manifest import Manifest
from reports.records import (
    LATENCY_FILE,
    MANIFEST_FILE,
    Record,
    TrialState,
    error_path,
    training_path,
    weights_path,
)
from search.config import SearchConfig, read_recipe
from search.context import SearchContext, check_points
from search.display import Display
from search.execution.cluster import expected_trainings
from search.execution.contract import Executor, Work
from search.execution.tune import tune_executor
from search.objectives import check_measured
from search.overrides import Overrides, overridden
from search.samplers.naming import check_sampler
from search.stoppers.rungs import Rungs
from search.study.resume import resumed_space
from search.study.run_folder import (
    check_images,
    check_not_lost,
    locked,
    make_run_folder,
    new_manifest,
)
from search.study.storage import check_unused, open_storage, open_study, storage_checked
from search.study.study import SearchStudy
from space.contract import check_operators


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSummary:
    """How a search ended."""

    folder: Path
    trained: int
    """Trials trained to the end, those of earlier drivers included."""
    stopped: int
    """Trials that the stopper ended early."""
    failed: int
    seconds: float
    """Wall-clock time of this driver."""
    exhausted: bool
    """Whether the space ran out of new points within the budget before enough were trained."""


def run(
    recipe: str | SearchConfig | None,
    *,
    out: str | Path,
    resume: bool = False,
    address: str | None = None,
    storage: str | None = None,
    display: Display | None = None,
    **overrides: Unpack[Overrides],
) -> SearchSummary:
    """Search, and return when the trials are trained.

    Args:
        recipe: name of a shipped recipe or of a space, a YAML file, or a config; None resumes with
            the config of the run.
        out: the run folder, new or, to resume, an existing one.
        resume: go on with a run: no finished trial is repeated, interrupted ones continue.
        address: of a Ray cluster; None starts Ray on this machine.
        storage: URL of a database for the study; None stores it in the run folder. A password in
            the URL is used and not stored; CASTLING_STORAGE may hold the URL with it instead.
        display: what shows the progress.
        overrides: fields that replace those of the recipe, such as `max_macs="1.2M"`; see
            `Overrides`.

    Raises:
        CastlingError: one of its kinds when recipe, budget, data or run folder are unusable.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; the run is then resumable.
    """
    folder = Path(out).absolute()
    manifest = Manifest.read(folder) if resume else None
    config = overridden(_resolved(recipe, folder, manifest), overrides)
    context = _checked_context(config, folder, manifest)
    base = context.space.base
    if manifest is not None:
        base = base.replace(preprocessing=manifest.preprocessing)
    index = IndexFile(folder / INDEX_FILE, is_new=manifest is None)
    data = training_data(base, trainings=expected_trainings(config), index=index)
    if manifest is not None:
        check_images(folder, manifest, data)
    check_weights(seeded(base, 0))
    url = _database(storage, manifest)
    if manifest is None:
        _check_database(folder, url)
        make_run_folder(folder)
    with storage_checked(folder, url), locked(folder):
        if manifest is None:
            make_run_folder(folder)  # checked again: another driver may have been faster
        else:
            check_not_lost(folder, manifest, open_storage(folder, url))
        with tune_executor(config, address) as executor:
            index.write()  # before the manifest, which makes the folder a run
            if manifest is None:
                new_manifest(context, url, data).write(folder)
            display = display or Display()
            display.images(describe(base, data, index))
            search = _Search(folder, context, display)
            return search.run(search.open(url), executor, data)


def _checked_context(
    config: SearchConfig, folder: Path, manifest: Manifest | None
) -> SearchContext:
    """Return the context of a new or resumed search whose sampler, points and operators fit."""
    space = config.build_space() if manifest is None else resumed_space(folder, manifest, config)
    check_measured(config.objectives, config.budget, space.base)
    table = config.latency_table(None if manifest is None else folder / LATENCY_FILE)
    context = config.context(space, table)
    check_sampler(config.sampler, context)
    check_points(config.points, context)
    check_operators(space)
    return context


def _database(storage: str | None, manifest: Manifest | None) -> str | None:
    """Return the URL of a new or resumed run's database with its password, None for a journal."""
    if manifest is None:
        return None if storage is None else complete_url(storage, storage)
    if manifest.storage is not None:
        return complete_url(manifest.storage, storage)
    if storage is not None:
        rule = "must be left out: this run keeps its study in its folder"
        raise ConfigError("storage", rule)
    return None


def _check_database(folder: Path, url: str | None) -> None:
    """Raise ConfigError when a new run's database does not open, or is another run's."""
    if url is not None:
        with storage_checked(folder, url):
            check_unused(open_storage(folder, url))


def _resolved(
    recipe: str | SearchConfig | None, folder: Path, manifest: Manifest | None
) -> SearchConfig:
    """Return the search config of a recipe, or that of the run to resume."""
    if recipe is None:
        if manifest is None:
            raise RunFolderError(str(folder), "needs a recipe to start a search", "name one")
        return SearchConfig.from_data(manifest.recipe, str(folder / MANIFEST_FILE))
    return read_recipe(recipe) if isinstance(recipe, str) else recipe


class _Search:
    """One driver's part of a search: an executor runs the trials, the study stores results."""

    def __init__(self, folder: Path, context: SearchContext, display: Display) -> None:
        self._folder, self._context, self._display = folder, context, display
        self._trained: list[Record] = []
        self._driver = Driver.here(context.config.trials)

    def open(self, url: str | None) -> SearchStudy:
        """Open the run's study, or make it; the URL is that of its database, if it has one."""
        table = self._context.latency_table
        if table is not None:
            table.keep_in(self._folder / LATENCY_FILE)
        storage = open_storage(self._folder, url)
        study = open_study(storage, self._context.objectives)
        self._driver.write(self._folder)
        return SearchStudy(study, storage, self._context, self.on_record)

    def run(self, study: SearchStudy, executor: Executor, data: TrainingData) -> SearchSummary:
        """Train trials until there are enough; raise what ended the search early."""
        started = time.monotonic()
        self._trained = [record for record in study.records if record.state == TrialState.TRAINED]
        config = self._context.config
        title = f"{config.space} within {config.budget.words(short=True) or 'no budget'}"
        self._display.start(title, config.trials, study.records, config.objectives, config.budget)
        rungs = Rungs.of(self._context)
        rungs.read_back(self._folder, [*study.records, *study.running.values()])
        work = Work(
            study=study,
            rungs=rungs,
            folder=self._folder,
            trial_minutes=config.trial_minutes,
            on_progress=self._display.progress,
        )
        try:
            executor.run(work, data)
        finally:
            self._display.stop()
        self._driver.replace(has_finished=True).write(self._folder)
        return SearchSummary(
            folder=self._folder,
            trained=len(self._trained),
            stopped=sum(record.state == TrialState.STOPPED for record in study.records),
            failed=sum(record.state == TrialState.FAILED for record in study.records),
            seconds=time.monotonic() - started,
            exhausted=study.exhausted,
        )

    def on_record(self, record: Record) -> None:
        """Show a record, and keep the weights of the front only."""
        self._display.record(record)
        if record.replay_of is not None or record.state not in (
            TrialState.TRAINED,
            TrialState.STOPPED,
            TrialState.FAILED,
        ):
            return
        for repeat in (None, *range(self._context.config.repeats)):
            remove_checkpoint(training_path(self._folder, record.trial, repeat))
        if record.state != TrialState.FAILED:
            error_path(self._folder, record.trial).unlink(missing_ok=True)
        if record.state == TrialState.TRAINED:
            self._trained.append(record)
            front = front_of(self._trained, self._context.objectives, self._context.budget)
            kept = {*front["trial"]}
            for other in self._trained:
                if other.trial not in kept:
                    weights_path(self._folder, other.trial).unlink(missing_ok=True)
