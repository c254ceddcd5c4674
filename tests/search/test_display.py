from reports.records import Record, TrialState
from search.config import SearchConfig
from search.display import front_of


def trained(trial: int, top1: float, macs: int) -> Record:
    return Record(
        trial=trial,
        state=TrialState.TRAINED,
        macs=macs,
        params=10,
        training_macs=macs,
        config_id=str(trial),
        top1=top1,
    )


def test_of_equal_models_the_first_proposed_is_on_the_front_whichever_finished_first() -> None:
    records = [trained(5, 0.9, 200), trained(3, 0.9, 200), trained(4, 0.5, 100)]
    assert [record.trial for record in front_of(records, SearchConfig().objectives)] == [4, 3]
