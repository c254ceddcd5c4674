import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import pytest
from plugin import install_module

from castling.errors import PluginError, UnknownNameError
from castling.registry import Registry


@pytest.fixture
def colours() -> Registry[int]:
    registry: Registry[int] = Registry("colour")
    registry.add("red", 1)
    registry.add("blue", 2)
    return registry


def test_is_a_mapping_sorted_by_name(colours: Registry[int]) -> None:
    assert isinstance(colours, Mapping)
    assert list(colours.items()) == [("blue", 2), ("red", 1)]
    assert len(colours) == 2


def test_register_files_what_it_decorates_and_returns_it() -> None:
    registry: Registry[object] = Registry("part")

    @registry.register("wheel")
    def wheel() -> None: ...

    assert registry["wheel"] is wheel


def test_a_name_is_given_once(colours: Registry[int]) -> None:
    with pytest.raises(ValueError, match="colour 'red' is registered twice"):
        colours.add("red", 3)
    with pytest.raises(ValueError, match="twice"):
        colours.register("blue")(4)
    assert dict(colours) == {"red": 1, "blue": 2}


def test_an_unknown_name_is_answered_with_the_known(colours: Registry[int]) -> None:
    with pytest.raises(UnknownNameError) as caught:
        colours["green"]
    assert caught.value.known == ("blue", "red")
    assert str(caught.value) == "colour must be one of blue, red; got 'green'"


@pytest.mark.parametrize("name", ["green", "", "Red", "red "], ids=repr)
def test_membership_and_get_work_for_unknown_names(colours: Registry[int], name: str) -> None:
    assert name not in colours
    assert colours.get(name) is None


def test_a_temporary_entry_leaves_no_trace(colours: Registry[int]) -> None:
    def fail() -> None:
        with colours.temporarily("green", 3):
            assert colours["green"] == 3
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert "green" not in colours
    with pytest.raises(ValueError, match="twice"), colours.temporarily("red", 9):
        pass
    assert colours["red"] == 1


def install(site: Path, name: str, source: str) -> None:
    install_module(site, "castling.test_shades", name, f"{name}_plugin", source)


HOME = """
from castling.registry import Registry
SHELF = Registry("shade", entry_points="castling.test_shades")
SHELF.add("dawn", 1)
"""
PLUGIN = """
from shelf_home import SHELF
SHELF.add("dusk", 3)
assert "dusk" in SHELF and list(SHELF) == ["dawn", "dusk"]  # a plugin may look names up
"""


def test_installed_plugins_are_imported_when_names_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "dusky", PLUGIN)
    (tmp_path / "shelf_home.py").write_text(HOME)
    monkeypatch.syspath_prepend(tmp_path)
    shelf = import_module("shelf_home").SHELF
    assert shelf["dawn"] == 1
    assert "dusky_plugin" not in sys.modules  # the name was there without it
    assert shelf["dusk"] == 3
    assert len(shelf) == 2


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise RuntimeError", "RuntimeError"),
        ("def broken(:", "SyntaxError: invalid syntax"),
        ("raise ValueError('first\\nsecond')", "ValueError: first"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named_in_one_sentence(
    source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "broken", source)
    monkeypatch.syspath_prepend(tmp_path)
    shelf: Registry[int] = Registry("shade", entry_points="castling.test_shades")
    for _ in range(2):  # it stays an error
        with pytest.raises(PluginError) as caught:
            list(shelf)
        text = str(caught.value)
        assert text.startswith("plugin broken: its entry point `broken = broken_plugin` must be")
        assert reason in text
        assert text.endswith("; repair it, or pip uninstall broken")
        assert "\n" not in text
        assert caught.value.is_bad_input
