"""Files that would exhaust memory, time or the stack are refused while they are read."""

import os
import tracemalloc
from pathlib import Path

import pytest

from castling.errors import ConfigError
from castling.untrusted import plain_yaml
from castling.untrusted.plain_yaml import DEEPEST, LARGEST_FILE, parse_yaml, read_yaml


def laughs(first: str, form: str) -> str:
    """Return YAML whose every line stands nine times for the line before."""
    lines = [f"a: &a {first}"]
    for old, new in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{new}: &{new} " + form.format(", ".join([f"*{old}"] * 9)))
    return "\n".join(lines)


REFUSED = {
    "billion laughs": (laughs("[x, x, x]", "[{}]"), "aliases counted in full"),
    "merged laughs": (laughs("{x: 1}", "{{<<: [{}]}}"), "aliases counted in full"),
    "list in itself": ("&a [*a]", "must not hold itself"),
    "merged with itself": ("&a {<<: *a}", "must not hold itself"),
    "open brackets": ("[" * 10_000, "nested too deeply"),
    "closed brackets": ("[" * 10_000 + "]" * 10_000, "nested too deeply"),
    "open braces": ("{a: " * 10_000, "nested too deeply"),
    "indented": ("\n".join(" " * level + "a:" for level in range(2_000)), "nested too deeply"),
    "sequences": ("- " * 10_000, "nested too deeply"),
    "a long text": ("a: " + "x" * 100_000, "characters"),
    "a long key": ("? " + "x" * 100_000 + "\n: 1", "characters"),
    "a repeated key": ("trials: 3\nseed: 1\ntrials: 4", "the key 'trials' twice, line 3"),
    "a repeated inner key": ("set: {a: 1, 'a': 2}", "the key 'a' twice"),
    "a large number": ("10000000000000000000000000000000", "beyond 64 bits"),
    "a large hexadecimal number": ("0x" + "f" * 9_000, "beyond 64 bits"),
    "a large sexagesimal number": ("1" + ":1" * 4_000, "beyond 64 bits"),
    "NUL": (r'"a\0b"', "NUL"),
    "half a character": (r'"\ud800"', "half a character"),
    "bytes": ("!!binary aGVsbG8=", "could not determine a constructor"),
    "a set": ("!!set {a}", "could not determine a constructor"),
    "Python": ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_too_much_is_refused_in_little_memory(case: str) -> None:
    text, reason = REFUSED[case]
    tracemalloc.start()
    with pytest.raises(ConfigError, match=reason) as caught:
        parse_yaml(text, "it")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value).startswith("it: must be well-formed YAML (")
    assert "\n" not in str(caught.value)
    assert peak < 30 * 2**20


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("{a: &x [1, 2], b: *x}", {"a": [1, 2], "b": [1, 2]}),
        ("{a: &x {k: 1}, b: {<<: *x, l: 2}, c: {<<: *x, k: 3}}",
         {"a": {"k": 1}, "b": {"k": 1, "l": 2}, "c": {"k": 3}}),
        ("[" * DEEPEST + "]" * DEEPEST, None),
        ("[9223372036854775807, -1, 1.5, yes, null, text]",
         [2**63 - 1, -1, 1.5, True, None, "text"]),
        ("", None),
    ],
)  # fmt: skip
def test_what_recipes_use_is_read(text: str, data: object) -> None:
    assert data is None or parse_yaml(text, "it") == data


def test_values_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_yaml, "MOST_VALUES", 100)
    assert parse_yaml("[" + "a," * 99 + "]", "it") == ["a"] * 99
    with pytest.raises(ConfigError, match="more than 100 values"):
        parse_yaml("[" + "a," * 100 + "]", "it")


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    with path.open("wb") as file:
        file.truncate(100 * 2**30)  # of holes
    tracemalloc.start()
    with pytest.raises(ConfigError, match="must have at most"):
        read_yaml(path)
    assert tracemalloc.get_traced_memory()[1] < 3 * LARGEST_FILE
    tracemalloc.stop()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ConfigError, match="must be a regular file"):
            read_yaml(path)
    for path in (Path("a\0b"), tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(ConfigError, match="must be a readable file"):
            read_yaml(path)
