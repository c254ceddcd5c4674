"""A search's searcher, study and rungs on a run folder, without Ray."""

from dataclasses import dataclass
from pathlib import Path

from search.config import SearchConfig
from search.execution.cluster import Resources
from search.execution.contract import Work
from search.execution.searcher import StudySearcher
from search.stoppers.rungs import Rungs
from search.study.storage import open_storage, open_study
from search.study.study import SearchStudy


@dataclass(frozen=True, kw_only=True)
class Bridge:
    """What a driver holds."""

    searcher: StudySearcher
    study: SearchStudy
    rungs: Rungs


def bridge(folder: Path, config: SearchConfig) -> Bridge:
    """Open a run folder's search, or begin it, as a driver does."""
    context = config.context(config.build_space())
    storage = open_storage(folder, None)
    study = SearchStudy(open_study(storage, config.objectives), storage, context)
    resources = Resources(workers=2)
    rungs = Rungs.of(context)
    rungs.read_back(folder, [*study.records, *study.running.values()])
    work = Work(study=study, rungs=rungs, folder=folder, trial_minutes=config.trial_minutes)
    return Bridge(searcher=StudySearcher(work, resources), study=study, rungs=rungs)
