import base64
import errno
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

import reports
from castling.errors import RunFolderError
from reports.manifest import Manifest
from reports.page import write_report
from reports.page.html import Image
from reports.page.run import Run
from reports.page.words import castling_words
from reports.page.write import PROGRESS, export_commands, render_page, run_facts
from reports.records import Objective, Record


MakeRun = Callable[..., Path]
MakeRecord = Callable[..., Record]
HOSTILE = "</pre></td></title><script>alert('x')</script><img src=\"http://evil\" onerror=x>&amp;"


class Page(HTMLParser):
    """Collects a page's tags, image sources and text, and checks that the tags nest."""

    void = frozenset({"meta", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += [dict(attrs).get("type") or ""] if tag == "script" else []
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.sources += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_report_is_five_files_in_the_run(run: Path) -> None:
    files = write_report(run)
    names = ["index.html", "front.png", "hypervolume.png", "front.csv", "trials.csv"]
    assert files == [run / "report" / name for name in names]
    assert sorted(path.name for path in (run / "report").iterdir()) == sorted(names)


def test_a_full_disk_is_not_the_fault_of_the_folder(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            write_report(run, target)
    assert not isinstance(caught.value, RunFolderError)
    assert caught.value.filename == str(target / "index.html")


def test_a_report_can_be_written_elsewhere_and_again(run: Path, tmp_path: Path) -> None:
    first = write_report(run, tmp_path / "a" / "b")
    assert write_report(str(run), str(tmp_path / "a" / "b")) == first
    assert not (run / "report").exists()


def test_tables_hold_the_front_and_every_proposal(run: Path) -> None:
    _, _, _, front, trials = (path for path in write_report(run))
    assert list(pd.read_csv(front)["trial"]) == [0, 1]
    assert list(pd.read_csv(trials)["trial"]) == list(range(8))
    assert list(pd.read_csv(trials).columns) == list(reports.load(run).columns)


def test_the_page_needs_no_other_file(run: Path) -> None:
    index, front_png, *_ = write_report(run)
    page = Page(index.read_text())
    assert len(page.sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert base64.b64decode(page.sources[0].partition(",")[2]) == front_png.read_bytes()


def test_the_page_shows_the_front_and_the_run(run: Path) -> None:
    text = Page(write_report(run)[0].read_text()).text
    for shown in ("80.00%", "200,000", "2,000", "1,000,000 MACs", "digits", "0.6778", "0.1.0"):
        assert shown in text
    assert "3 trained, 1 stopped, 1 failed, 1 replayed, 1 refused" in text
    assert "train.learning_rate" in text
    assert f"castling export {run} --trial 1 --out trial-1" in text


def test_hostile_text_stays_text(make_run: MakeRun, record: MakeRecord) -> None:
    records = [
        record(0, point={f"model.{HOSTILE}": HOSTILE}, config_id=HOSTILE),
        record(1, "failed", reason=HOSTILE),
    ]
    run = make_run(
        records,
        recipe={"name": HOSTILE, HOSTILE: [HOSTILE]},
        versions={HOSTILE: HOSTILE},
        git_commit=HOSTILE,
    )
    hostile_run = run.rename(run.with_name("<script>alert(1)<&"))
    page = Page(write_report(hostile_run)[0].read_text())
    assert page.scripts == ["application/json", ""]
    assert all(source.startswith("data:") for source in page.sources)
    assert page.text.count("alert('x')") >= 6


def test_braces_in_text_are_no_template(make_run: MakeRun) -> None:
    run = make_run(recipe={"name": "{style} {0} {body!r}"})
    assert "{style} {0} {body!r}" in Page(write_report(run)[0].read_text()).text


@pytest.mark.parametrize("records", ["none", "running"])
def test_a_run_without_a_front_has_a_page(
    make_run: MakeRun, record: MakeRecord, records: str
) -> None:
    run = make_run([] if records == "none" else [record(0, "running")])
    assert "nothing to export yet" in Page(write_report(run)[0].read_text()).text


def test_commands_are_quoted_for_a_shell(run: Path) -> None:
    front = reports.load(run).pareto.front()
    assert export_commands(Path("my runs/a;b"), front)[0] == (
        "castling export 'my runs/a;b' --trial 0 --out trial-0"
    )


def test_replayed_training_time_is_counted_once(
    make_run: MakeRun, record: MakeRecord, manifest: Manifest
) -> None:
    spent = {"train_seconds": 3600.0}
    records = [record(0, **spent), record(1, "replayed", replay_of=0, **spent)]
    records += [record(2, "stopped", **spent), record(3, "stopped", replay_of=2, **spent)]
    run = make_run(records)
    assert run_facts(manifest, reports.load(run))["training time"] == "2.00 h in all"


def test_two_pages_of_the_same_run_are_equal(run: Path) -> None:
    images = {"front.png": Image(b"a", "front"), PROGRESS: Image(b"b", "progress")}
    first, second = (render_page(Run.read(run), images) for _ in range(2))
    assert first == second


def test_a_figure_for_each_cost_and_none_of_a_hypervolume_that_is_not_defined(
    make_run: Callable[..., Path],
) -> None:
    goals = [Objective(metric="top1", direction="max")] + [
        Objective(metric=metric, direction="min") for metric in ("params", "train_seconds")
    ]
    files = write_report(make_run(objectives=tuple(goals), reference={"top1": 0.0}))
    names = ["index.html", "front.png", "front-train_seconds.png", "front.csv", "trials.csv"]
    assert [path.name for path in files] == names
    page = files[0].read_text()
    assert '<th scope="col">training (s)</th>' in page
    assert "no hypervolume: params has no reference; add --max params=VALUE" in page


def test_a_place_that_cannot_be_written_is_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"file.report: cannot be written"):
        write_report(run, tmp_path / "file" / "report")


def test_no_temporary_file_is_left(run: Path) -> None:
    write_report(run)
    assert not [path for path in run.rglob("*") if re.match(r"\.", path.name)]


def test_a_run_of_a_newer_version_says_which_to_install(run: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("castling_run: 2", "castling_run: 3"))
    with pytest.raises(RunFolderError, match=r"newer version .*install castling-nas 0.1.0 or"):
        write_report(run)


@pytest.mark.parametrize(
    ("gaps", "full", "words"),
    [
        (
            [0.1, 0.04, 0.0],
            [True, True, False],
            "epoch 1 would have cost 10.0 points; from epoch 3",
        ),
        ([0.0, 0.0, 0.0], [True, True, False], "would have cost nothing after any epoch; from"),
        (
            [0.0, 0.0, 0.02],
            [True, True, True],
            "alive at the end, and dropping the branch cost +2",
        ),
        ([0.0, 0.0, 0.0], [False, False, False], "it castled at once"),
    ],
)
def test_a_sentence_says_what_castling_earlier_costs(
    gaps: list[float], full: list[bool], words: str
) -> None:
    assert words in castling_words(7, [1, 2, 3], gaps, full)
