import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from browser import CHROMIUM, Browser
from made_up_study import GOALS, made_up_block, made_up_run, made_up_trial, write_study

from reports.page import compare_runs, write_report
from reports.page.html import SCRIPTS
from reports.records import Objective, TrialState


pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
SCRIPT_FOLDER = Path(__file__).parents[2] / "reports" / "page"
PINNED = "JSON.parse(decodeURIComponent(location.hash.slice(1)) || '{}').pin"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    return write_report(run)[0]


def opened(browser: Browser, page: Path, width: int = 1280) -> None:
    browser.media()
    browser.resize(width)
    browser.open(page)
    browser.wait(
        "document.documentElement.dataset.ready && !!document.querySelector('#castling svg')"
    )


def place(browser: Browser, selector: str) -> tuple[float, float, float, float]:
    """Left, top, width and height of an element, scrolled into the window."""
    box = browser.run(
        f"(() => {{ const it = document.querySelector({selector!r}); "
        "it.scrollIntoView({block: 'center', behavior: 'instant'}); "
        "const box = it.getBoundingClientRect(); "
        "return [box.x, box.y, box.width, box.height]; })()"
    )
    return tuple(box)


@pytest.mark.parametrize("width", [390, 768, 1280, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_width_shows_all_without_a_message_or_a_request(
    browser: Browser, page: Path, width: int, scheme: str
) -> None:
    opened(browser, page, width)
    browser.media(scheme=scheme)
    browser.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.console == []
    assert {url.split(":")[0] for url in browser.requests} <= {"file", "data"}
    assert [url for url in browser.requests if url.startswith("file")] == [page.resolve().as_uri()]
    assert browser.run(
        "[...document.querySelectorAll('main section')].every(one => one.innerText.length > 20)"
    )


def test_hover_shows_the_architecture_and_a_click_pins_it_everywhere(
    browser: Browser, page: Path
) -> None:
    opened(browser, page)
    before = browser.run(PINNED)
    # walk to the cheapest member by keys, then hover and click the place of another
    browser.run("document.querySelector('#front canvas[tabindex]').focus()")
    browser.press("Home")
    first = browser.run(PINNED)
    assert first != before
    assert (
        browser.run("document.querySelector('#castling-title').textContent")
        == f"How #{first} castled"
    )
    assert browser.run("document.querySelector('.row.pinned').dataset.trial") == str(first)
    left, top, width, height = place(browser, "#front canvas[tabindex]")
    found = None
    for across in range(60, int(width), 6):
        browser.mouse("Moved", left + across, top + height * 0.35)
        if not browser.run("document.getElementById('tip').hidden"):
            found = browser.run("document.getElementById('tip').innerText")
            break
    assert found is not None
    assert browser.run("document.querySelectorAll('#tip .tile').length") == 4
    browser.click(left + across, top + height * 0.35)
    pinned = browser.run(PINNED)
    assert f"#{pinned} " in found
    assert browser.run("document.querySelector('#trials tr.pinned').dataset.trial") == str(pinned)


def test_arrow_keys_and_the_slider_walk_the_front(browser: Browser, page: Path) -> None:
    opened(browser, page)
    front = browser.run(
        "[...document.querySelectorAll('.row')].map(row => Number(row.dataset.trial))"
    )
    browser.run("document.querySelector('#front canvas[tabindex]').focus()")
    browser.press("Home")
    assert browser.run(PINNED) == front[0]
    browser.press("ArrowRight")
    assert browser.run(PINNED) == front[1]
    browser.press("ArrowLeft")
    browser.press("ArrowLeft")
    assert browser.run(PINNED) == front[0]
    assert f"#{front[0]}:" in browser.run("document.getElementById('said').textContent")
    browser.run(
        "(() => { const slider = document.getElementById('walk'); slider.value = 2; "
        "slider.dispatchEvent(new Event('input')); })()"
    )
    assert browser.run(PINNED) == front[2]
    assert f"#{front[2]}" in browser.run(
        "document.getElementById('walk').getAttribute('aria-valuetext')"
    )


def test_a_brush_filters_every_view_and_escape_clears_it(browser: Browser, page: Path) -> None:
    opened(browser, page)
    count = "document.querySelector('#trials p').textContent"
    whole, effects = (
        browser.run(count),
        browser.run("document.getElementById('effects').innerText"),
    )
    left, top, width, height = place(browser, "#front canvas[tabindex]")
    browser.drag((left + width * 0.5, top + 8), (left + width * 0.8, top + height * 0.7))
    brushed = browser.run(count)
    assert "in the selection" in brushed
    assert int(brushed.split(" of ")[1].split()[0]) < int(whole.split(" of ")[1].split()[0])
    assert browser.run("document.getElementById('effects').innerText") != effects
    assert browser.run("document.querySelectorAll('.row.left-out').length") > 0
    browser.open(page, fragment=browser.run("location.hash"))  # what --watch does: it is kept
    browser.wait("document.documentElement.dataset.ready")
    assert browser.run(count) == brushed
    browser.run("document.querySelector('#front canvas[tabindex]').focus()")
    browser.press("Escape")
    assert browser.run(count) == whole
    assert browser.console == []


def test_menus_buttons_and_headings_do_what_they_say(
    browser: Browser, page: Path, run: Path
) -> None:
    opened(browser, page)
    pick = (
        "(() => {{ const menu = document.querySelectorAll('#front select')[{place}]; "
        "menu.value = {value!r}; menu.dispatchEvent(new Event('change')); }})()"
    )
    for menu, value in ((1, "params"), (2, "castled"), (2, "train_seconds"), (0, "loss")):
        browser.run(pick.format(place=menu, value=value))
    assert '"x":"params"' in browser.run("decodeURIComponent(location.hash)")
    trial = browser.run("document.querySelector('.row').dataset.trial")
    browser.run("document.querySelector('.row > button').click()")
    browser.wait("document.querySelector('.row > button').dataset.copied")
    copied = browser.run("document.querySelector('.row > button').dataset.copied")
    assert copied == f"castling export {run} --trial {trial} --out trial-{trial}"
    cell = "document.querySelector('#trials tbody td:nth-child(4)').textContent"
    browser.run("document.querySelectorAll('#trials th button')[2].click()")
    rising = browser.run(cell)
    browser.run("document.querySelectorAll('#trials th button')[2].click()")
    assert browser.run(cell) != rising
    assert browser.run("document.querySelector('th[aria-sort=descending]').innerText.length") > 0
    for over in ("epochs", "hours"):
        browser.run(f"document.querySelector('[data-over={over}]').click()")
        assert over in browser.run(
            "document.querySelector('#progress svg').getAttribute('aria-label')"
        )
    dark = browser.run("getComputedStyle(document.body).backgroundColor")
    browser.run("document.getElementById('theme').click()")
    assert browser.run("getComputedStyle(document.body).backgroundColor") != dark
    assert browser.console == []


def test_without_scripts_and_on_paper_the_page_has_figures_and_tables(
    browser: Browser, page: Path
) -> None:
    opened(browser, page)
    browser.media(type="print")
    assert browser.run("getComputedStyle(document.querySelector('.walk')).display") == "none"
    browser.media()
    browser.scripts(allowed=False)
    try:
        browser.open(page)
        still = "document.querySelector('noscript .still')"
        assert browser.run(f"{still}.querySelectorAll('img').length") == 2
        assert browser.run(f"{still}.querySelectorAll('tr').length") > 3
        hidden = "getComputedStyle(document.getElementById('front').parentElement).display"
        assert browser.run(hidden) == "none"
    finally:
        browser.scripts(allowed=True)


def test_strings_from_configs_stay_text(browser: Browser, tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=\"document.title='broken'\">${alert(1)}\u2028<!--"
    rng = Random(1)
    trials = [made_up_trial(number, rng) for number in range(9)]
    trials = [
        (
            record.replace(point={f"model.{hostile}": hostile + str(record.trial)}),
            {"model": {"blocks": [{**made_up_block(rng), "operator": hostile}]}},
        )
        for record, _ in trials
    ]
    failed = made_up_trial(9, rng)[0].replace(state=TrialState.FAILED, reason=hostile)
    page = write_report(
        write_study(
            tmp_path / "<b>run", [*trials, (failed, {})], recipe={"name": hostile, hostile: 1}
        )
    )[0]
    browser.resize(390)
    browser.open(page)
    browser.wait("document.documentElement.dataset.ready")
    assert browser.console == []
    assert browser.run("document.title") != "broken"
    assert browser.run("document.querySelectorAll('img[src=x], b > b').length") == 0
    assert browser.run("document.getElementById('strips').innerText").count("</") > 0
    assert browser.run("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty", "no trial yet"),
        ("one", "a front of one point"),
        ("failed", "2 trials failed, and none was trained"),
        ("budget", "the cheapest is trial"),
        ("older", "written by castling-nas 0.1.0"),
        ("interrupted", "--resume goes on"),
    ],
)
def test_a_page_says_why_there_is_little_to_see(
    browser: Browser, tmp_path: Path, kind: str, words: str
) -> None:
    rng = Random(2)
    trials = [made_up_trial(number, rng) for number in range(3)]
    changes: dict[str, object] = {}
    if kind == "empty":
        trials = []
    if kind in {"one", "older"}:
        trials = trials[:1]
        changes = {"castling_run": 1} if kind == "older" else {}
    if kind == "failed":
        trials = [
            (record.replace(state=TrialState.FAILED, reason="boom", epochs=0), config)
            for record, config in trials[:2]
        ]
    if kind == "budget":
        changes = {"budget": {"max_macs": 1}}
    if kind == "interrupted":
        record, config = trials[2]
        trials[2] = (record.replace(state=TrialState.RUNNING, finished_at=""), config)
    run = write_study(tmp_path / "run", trials, **changes)
    browser.resize(390)
    browser.open(write_report(run)[0])
    browser.wait("document.documentElement.dataset.ready")
    assert words in browser.run("document.body.innerText")
    assert browser.console == []
    assert browser.run("document.documentElement.scrollWidth") <= 390


def test_three_objectives_are_drawn(browser: Browser, tmp_path: Path) -> None:
    goals = (*GOALS, Objective(metric="params", direction="min"))
    rng = Random(3)
    run = write_study(
        tmp_path / "run",
        [made_up_trial(number, rng) for number in range(12)],
        objectives=goals,
        reference={"top1": 0.1, "macs": 1e6, "params": 1e5},
    )
    browser.resize(1280)
    browser.open(write_report(run)[0])
    browser.wait("document.documentElement.dataset.ready")
    assert browser.run("document.querySelectorAll('#front select')[2].value") == "params"
    assert browser.console == []


def test_two_runs_are_compared(browser: Browser, run: Path, tmp_path: Path) -> None:
    other = made_up_run(tmp_path / "other", 30, seed=5)
    page = compare_runs([run, other], tmp_path / "compared")[0]
    for width in (390, 1280):
        browser.resize(width)
        browser.open(page)
        browser.wait(
            "document.documentElement.dataset.ready && !!document.querySelector('#front svg')"
        )
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.console == []
    assert browser.run("document.querySelectorAll('#front path').length") == 2
    assert browser.run("document.querySelectorAll('#winners tr').length") > 3
    assert "better model at" in browser.run("document.getElementById('answer').textContent")


def test_the_script_is_short_and_its_syntax_checked() -> None:
    node = shutil.which("node")
    lines = 0
    for name in SCRIPTS:
        lines += len((SCRIPT_FOLDER / name).read_text(encoding="utf-8").splitlines())
        if node:
            subprocess.run([node, "--check", str(SCRIPT_FOLDER / name)], check=True)
    assert lines < 1000


@pytest.mark.slow
def test_twenty_thousand_trials_are_drawn_within_a_second(
    browser: Browser, tmp_path: Path
) -> None:
    run = made_up_run(tmp_path / "run", 22_000, dimensions=24, layers=12)
    page = write_report(run)[0]
    assert page.stat().st_size < 5_000_000
    browser.resize(1280)
    browser.open(page)
    spent = "document.getElementById('front').dataset.milliseconds"
    browser.wait(spent)
    assert float(browser.run(spent)) < 1000
    assert "in bins" in browser.run("document.getElementById('front').innerText")
    assert browser.console == []
