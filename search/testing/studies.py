"""Studies without Ray and without training: trials end with made-up results."""

from collections.abc import Callable
from pathlib import Path

from reports.records import Record, TrialState
from search.config import SearchConfig
from search.study.storage import open_storage, open_study
from search.study.study import SearchStudy
from search.study.trial import Outcome, Proposal
from space.cost import cost


def open_search(
    folder: Path, config: SearchConfig, on_record: Callable[[Record], None] = lambda _: None
) -> SearchStudy:
    """Open the study of a folder, or begin it, as the driver does.

    Args:
        folder: of the run.
        config: the search's.
        on_record: called with every record that the study stores.
    """
    storage = open_storage(folder, None)
    return SearchStudy(
        open_study(storage, config.objectives),
        storage,
        config.context(config.build_space()),
        on_record,
    )


def trained(top1: float, epochs: int = 6) -> Outcome:
    """Return how a training ends that reaches an accuracy."""
    metrics = {"top1": top1, "top1_branch": top1, "loss": 1.0, "train_seconds": 1.0}
    return Outcome(state=TrialState.TRAINED, metrics=metrics, epochs=epochs)


def accuracy(proposal: Proposal) -> float:
    """Return a smooth stand-in for an accuracy, 0 to 0.99: better with more MACs."""
    return min(0.99, cost(proposal.run.model).macs / 450_000)


def exhaust(study: SearchStudy, steps: int = 1000) -> list[Proposal]:
    """Go on until the study proposes nothing more, and return its proposals.

    Args:
        study: as `open_search` returns it.
        steps: proposals at most.
    """
    proposals: list[Proposal] = []
    while len(proposals) < steps and (proposal := study.propose()) is not None:
        proposals.append(proposal)
        study.finish(proposal.trial, trained(accuracy(proposal)))
    return proposals
