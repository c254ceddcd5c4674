from collections.abc import Mapping

import pytest

from castling.errors import UnknownNameError
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
