import copy
import inspect
import pickle

import pytest

from castling import errors
from castling.errors import (
    CastlingError,
    ConfigError,
    DivergedError,
    UnknownNameError,
    one_line,
)


EXAMPLES: list[CastlingError] = [
    errors.ConfigError("train.epochs", "must be at least 1", 0, "train longer"),
    errors.UnknownNameError("operator", "sofmax", ("linear_angular", "softmax")),
    errors.PluginError("average", "average = average_operator", "ImportError: numpy is missing"),
    errors.InvalidPointError("model.depth", "must be in 2..4", 9),
    errors.InfeasibleBudgetError("macs", 1_000, 2_000),
    errors.SpaceMismatchError("runs/a", "space", "5eed", "f00d"),
    errors.RunFolderError("runs/a", "is not empty", "choose another --out"),
    errors.StorageError("runs/a", "No space left on device"),
    errors.ClusterError("the node timed out during startup"),
    errors.ClusterError("Permission denied", "set TMPDIR to a folder that you can write"),
    errors.UnreachableError("10.0.0.1:29500", 1, 2, 60, "timed out"),
    errors.CheckpointError("best/model.safetensors", "it is truncated"),
    errors.DataError("digits", "train has no images", "install the files anew"),
    errors.UncountedOperatorError(iter(["aten::fft"])),
    errors.OperatorError("elu_mix", "no count is known for aten::elu", "list it in `free`"),
    errors.CostMismatchError("macs", 10, 11),
    errors.DivergedError("loss", 2, 7, float("inf")),
    errors.RecordError("runs/a/study.journal", "line 3 is cut off"),
]
BUILT_IN = (ValueError, KeyError, ArithmeticError, OSError, RuntimeError, ImportError)


def name(error: CastlingError) -> str:
    return type(error).__name__


def test_every_error_of_the_module_has_an_example() -> None:
    defined = {
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if cls.__module__ == errors.__name__ and cls is not CastlingError
    }
    assert {type(error) for error in EXAMPLES} == defined


@pytest.mark.parametrize("error", EXAMPLES, ids=name)
def test_survives_pickle_and_copy_as_ray_sends_it(error: CastlingError) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=name)
def test_can_be_caught_as_a_built_in_and_under_the_root(error: CastlingError) -> None:
    assert isinstance(error, CastlingError)
    assert isinstance(error, BUILT_IN)


@pytest.mark.parametrize("error", EXAMPLES, ids=name)
def test_is_one_sentence_with_its_facts(error: CastlingError) -> None:
    text = str(error)
    assert "\n" not in text
    assert not text.startswith("(")
    for fact in vars(error).values():
        if isinstance(fact, str):
            assert fact in text
        elif isinstance(fact, int):
            assert f"{fact:,}" in text


def test_values_are_cut_to_a_readable_length() -> None:
    text = str(ConfigError("blocks", "must be a list", "x" * 10_000))
    assert len(text) < 150
    assert text.endswith("…")


def test_an_absent_value_is_not_mentioned() -> None:
    assert str(ConfigError("seed", "is required")) == "seed: is required"
    assert str(ConfigError("", "must be a mapping", [])) == "must be a mapping, got []"


def test_unknown_names_are_key_errors_that_list_the_known() -> None:
    error = UnknownNameError("preset", "cifar", iter(["digits", "fashion-mnist"]))
    assert isinstance(error, KeyError)
    assert str(error) == "preset must be one of digits, fashion-mnist; got 'cifar'"
    assert error.known == ("digits", "fashion-mnist")


def test_a_divergence_says_when() -> None:
    error = DivergedError("loss", 3, 12, float("nan"))
    assert str(error) == "loss must be finite, got nan at epoch 3, step 12"


def test_what_the_user_cannot_mend_in_the_input_is_not_called_bad_input() -> None:
    # The command line exits with 1 for these and with 2 for the others.
    failures = {name(error) for error in EXAMPLES if not error.is_bad_input}
    assert failures == {
        "ClusterError", "CostMismatchError", "DivergedError", "StorageError",
        "UncountedOperatorError",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 日本", "plain ü 日本"),
        ("a\nTraceback\r\t", r"a\nTraceback\r\t"),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("\u202egnp", r"\u202egnp"),
        ("bad \udcff path", r"bad \udcff path"),
    ],
)
def test_texts_of_others_are_shown_and_not_obeyed(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_a_sentence_has_an_end() -> None:
    assert len(one_line("x" * 10**6)) == 2_001
    assert len(str(ConfigError("k" * 10**6, "must not be", "v" * 10**6))) < 500
    assert "an unwritable int" in str(ConfigError("k", "must not be", 10**5_000))
