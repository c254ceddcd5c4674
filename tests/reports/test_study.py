import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from guarded_database import PASSWORD, VARIABLE as OWN_VARIABLE, guarded_url
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

import reports
from castling.errors import RecordError, RunFolderError
from reports.database import VARIABLE
from reports.manifest import Manifest
from reports.page import write_report
from reports.records import RECORD_ATTRIBUTE, STUDY_FILE, STUDY_NAME, Record


MakeRun = Callable[..., Path]
MakeRecord = Callable[..., Record]


def contents(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_reading_leaves_the_folder_as_it_was(run: Path) -> None:
    before = contents(run)
    reports.load(run)
    assert contents(run) == before


@pytest.fixture
def read_only(run: Path) -> Iterator[Path]:
    paths = [run, *run.rglob("*")]
    modes = [path.stat().st_mode for path in paths]
    for path, mode in zip(paths, modes, strict=True):
        path.chmod(mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    yield run
    for path, mode in zip(paths, modes, strict=True):
        path.chmod(mode)


def test_a_read_only_run_can_be_read(read_only: Path) -> None:
    assert len(reports.load(read_only)) == 7


def test_a_torn_last_line_does_not_matter(run: Path, record: MakeRecord) -> None:
    journal = run / STUDY_FILE
    whole = reports.load(run)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines) + lines[-1][:20])
    assert reports.load(run).equals(whole)


def test_every_cut_of_a_journal_reads_as_an_earlier_moment(run: Path) -> None:
    """As after a full disk or a crash: whatever was written whole is there."""
    journal = run / STUDY_FILE
    whole = journal.read_bytes()
    first = whole.index(b"\n") + 1
    counts = []
    for cut in range(first, len(whole), 997):
        journal.write_bytes(whole[:cut])
        counts.append(len(reports.load(run, refused=True)))
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] in {7, 8}


def test_a_live_search_is_seen_as_it_grows(make_run: MakeRun, record: MakeRecord) -> None:
    run = make_run([record(0)])
    storage = JournalStorage(JournalFileBackend(str(run / STUDY_FILE)))
    study = optuna.load_study(study_name=STUDY_NAME, storage=storage)
    trial = study.ask()
    assert len(reports.load(run)) == 1
    trial.set_user_attr(RECORD_ATTRIBUTE, record(1, "running", epochs=3).to_data())
    assert list(reports.load(run)["state"]) == ["trained", "running"]
    trial.set_user_attr(RECORD_ATTRIBUTE, record(1, top1=0.75).to_data())
    assert list(reports.load(run)["top1"]) == [0.5, 0.75]


def test_a_writer_holding_the_lock_does_not_block_a_reader(run: Path) -> None:
    (run / f"{STUDY_FILE}.lock").symlink_to(run / STUDY_FILE)
    assert len(reports.load(run)) == 7


def test_a_missing_journal_is_not_created(run: Path) -> None:
    (run / STUDY_FILE).unlink()
    with pytest.raises(RunFolderError, match=r"has no study\.journal"):
        reports.load(run)
    assert not (run / STUDY_FILE).exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff\xfe\n\n",
        b"not a journal\nat all\n",
        b"[]\n",
        b"{}\n",
        b'{"op_code": 77}\n',
        b'{"op_code": 4, "study_id": 0}\n',
        b'{"op_code": 0, "study_name": "castling", "directions": [9], "worker_id": "a"}\n',
        b'{"op_code": 0, "study_name": "another", "directions": [1], "worker_id": "a"}\n',
        b"[" * 100_000 + b"\n",
    ],
)
def test_a_damaged_journal_is_named(run: Path, content: bytes) -> None:
    (run / STUDY_FILE).write_bytes(content)
    with pytest.raises(RecordError) as caught:
        reports.load(run)
    assert caught.value.path == str(run / STUDY_FILE)


def test_damage_in_the_middle_is_not_skipped(run: Path) -> None:
    journal = run / STUDY_FILE
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[len(lines) // 2] = b'{"op_code": \n'
    journal.write_bytes(b"".join(lines))
    with pytest.raises(RecordError, match="it is damaged"):
        reports.load(run)


def test_a_database_is_read_without_being_written(
    tmp_path: Path, make_run: MakeRun, record: MakeRecord, fill: Callable[..., None]
) -> None:
    database = tmp_path / "a study.db"
    run = make_run([], storage=f"sqlite:///{database}")
    (run / STUDY_FILE).unlink()
    storage = RDBStorage(f"sqlite:///{database}")
    fill(storage, [record(0), record(1, "refused"), record(2, "failed")])
    storage.engine.dispose()
    before = contents(tmp_path)
    assert list(reports.load(run)["state"]) == ["trained", "failed"]
    assert reports.load_config(run, 2) == {"model": {"embed_width": 18}}
    assert contents(tmp_path) == before


def test_a_missing_database_is_not_created(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run([], storage=f"sqlite:///{tmp_path}/gone.db")
    with pytest.raises(RunFolderError, match=r"gone\.db"):
        reports.load(run)
    assert not (tmp_path / "gone.db").exists()


@pytest.mark.parametrize("content", [b"", b"this is no database" * 500])
def test_a_foreign_database_is_named(tmp_path: Path, make_run: MakeRun, content: bytes) -> None:
    (tmp_path / "foreign.db").write_bytes(content)
    run = make_run([], storage=f"sqlite:///{tmp_path}/foreign.db")
    with pytest.raises(RecordError, match=r"foreign\.db"):
        reports.load(run)
    assert (tmp_path / "foreign.db").read_bytes() == content


def test_an_unreachable_server_is_named_without_its_password(make_run: MakeRun) -> None:
    run = make_run([], storage="nosuchdb://reader:hunter2@localhost/studies")
    with pytest.raises(RecordError, match="nosuchdb") as caught:
        reports.load(run)
    assert "hunter2" not in str(caught.value)


def test_a_storage_that_is_no_url_is_refused_without_repeating_it(make_run: MakeRun) -> None:
    run = make_run([], storage="reader:hunter2")
    with pytest.raises(RunFolderError, match="no database URL") as caught:
        reports.load(run)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("in_query", [False, True])
def test_a_database_is_read_with_the_password_of_the_environment_or_of_an_older_run(
    in_query: bool,
    tmp_path: Path,
    make_run: MakeRun,
    record: MakeRecord,
    fill: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    public = guarded_url(tmp_path / "study.db")
    known = guarded_url(tmp_path / "study.db", PASSWORD, in_query=in_query)
    fill(RDBStorage(known), [record(0)])
    run = make_run([], storage=public)
    with pytest.raises(RecordError, match="set CASTLING_STORAGE to the URL with its") as caught:
        reports.load(run)
    assert public in str(caught.value)
    with monkeypatch.context() as place:
        place.setenv(VARIABLE, known)
        assert len(reports.load(run)) == 1
    with monkeypatch.context() as place:
        place.setenv(OWN_VARIABLE, PASSWORD)
        assert len(reports.load(run)) == 1
    Manifest.read(run).replace(storage=known).write(run)
    assert len(reports.load(run)) == 1
    for path in write_report(run, tmp_path / "report"):
        assert PASSWORD.encode() not in path.read_bytes()
    wrong = guarded_url(tmp_path / "study.db", "mistaken/", in_query=in_query)
    Manifest.read(run).replace(storage=wrong).write(run)
    with pytest.raises(RecordError, match=r"for nas:\*\*\* \(\*\*\*\)") as caught:
        reports.load(run)
    assert "mistaken" not in str(caught.value)
