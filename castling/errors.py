"""Every error that castling raises on purpose: what must hold, what was got, how to fix it."""

from collections.abc import Iterable


LONGEST_FIELD, LONGEST_REASON = 300, 1_000
"""Characters in a sentence of a field's name and of why a record is none; both may be anything."""


class CastlingError(Exception):
    """Root of the errors that castling raises; never raised itself."""

    is_bad_input = True
    """Whether the caller can mend it; False for what fails at run time."""


class ConfigError(CastlingError, ValueError):
    """A config, recipe, budget or command-line value breaks a rule."""

    def __init__(self, field: str, rule: str, value: object = None, fix: str = "") -> None:
        super().__init__(field, rule, value, fix)
        self.field, self.rule, self.value, self.fix = field, rule, value, fix

    def __str__(self) -> str:
        """One sentence: the field, its rule, the value, the remedy."""
        got = "" if self.value is None else f", got {_short(self.value)}"
        fix = f"; {self.fix}" if self.fix else ""
        field = one_line(self.field, LONGEST_FIELD)
        return f"{field}: {self.rule}{got}{fix}" if field else f"{self.rule}{got}{fix}"


class UnknownNameError(CastlingError, KeyError):
    """A registry has no entry of this name."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = tuple(known)
        super().__init__(kind, name, known)
        self.kind, self.name, self.known = kind, name, known

    def __str__(self) -> str:
        """One sentence that lists the known names."""
        return f"{self.kind} must be one of {', '.join(self.known)}; got {_short(self.name)}"


class PluginError(CastlingError, ImportError):
    """An installed distribution says that it extends castling, and cannot be imported."""

    def __init__(self, distribution: str, entry: str, reason: str) -> None:
        super().__init__(distribution, entry, reason)
        self.distribution, self.entry, self.reason = distribution, entry, reason

    def __str__(self) -> str:
        """One sentence: the distribution, what fails, why, the remedy."""
        return (
            f"plugin {self.distribution}: its entry point `{self.entry}` must be a module that "
            f"imports ({self.reason}); repair it, or pip uninstall {self.distribution}"
        )


class InvalidPointError(CastlingError, ValueError):
    """A point lacks a dimension, has a foreign one, or leaves a domain."""

    def __init__(self, dimension: str, rule: str, value: object = None) -> None:
        super().__init__(dimension, rule, value)
        self.dimension, self.rule, self.value = dimension, rule, value

    def __str__(self) -> str:
        """One sentence: the dimension, its rule, the value."""
        got = "" if self.value is None else f", got {_short(self.value)}"
        return f"point: {self.dimension} {self.rule}{got}"


class InfeasibleBudgetError(CastlingError, ValueError):
    """No point of the space fits the budget."""

    def __init__(self, quantity: str, limit: int, cheapest: int) -> None:
        super().__init__(quantity, limit, cheapest)
        self.quantity, self.limit, self.cheapest = quantity, limit, cheapest

    def __str__(self) -> str:
        """One sentence with the cost of the cheapest point."""
        return (
            f"max_{self.quantity} must be at least {self.cheapest:,}, the cost of the cheapest "
            f"point of this space, got {self.limit:,}; raise the budget or choose a smaller space"
        )


class SpaceMismatchError(CastlingError, ValueError):
    """A run is resumed with another space or recipe than it was started with."""

    def __init__(self, run: str, what: str, stored: str, given: str) -> None:
        super().__init__(run, what, stored, given)
        self.run, self.what, self.stored, self.given = run, what, stored, given

    def __str__(self) -> str:
        """One sentence with both sides."""
        return (
            f"{self.run} was started with {self.what} {self.stored}, this search has "
            f"{self.given}; leave out recipe and options to resume with its own, or choose "
            "another --out"
        )


class RunFolderError(CastlingError, ValueError):
    """A run or export folder is missing, foreign, occupied or unreadable."""

    def __init__(self, folder: str, rule: str, fix: str = "") -> None:
        super().__init__(folder, rule, fix)
        self.folder, self.rule, self.fix = folder, rule, fix

    def __str__(self) -> str:
        """One sentence: the folder, what is wrong, the remedy."""
        return f"{self.folder}: {self.rule}" + (f"; {self.fix}" if self.fix else "")


class StorageError(CastlingError, OSError):
    """A run folder cannot be written: the disk is full, read-only or gone."""

    is_bad_input = False

    def __init__(self, folder: str, reason: str) -> None:
        super().__init__(folder, reason)
        self.folder, self.reason = folder, reason

    def __str__(self) -> str:
        """One sentence: the folder, the reason, the remedy."""
        return (
            f"{self.folder}: cannot be written ({self.reason}); what was recorded is safe: "
            "make room or mend the disk, then go on with --resume"
        )


class ClusterError(CastlingError, RuntimeError):
    """Ray could not be started on this machine."""

    is_bad_input = False

    def __init__(
        self, reason: str, remedy: str = "try again when the machine is less busy"
    ) -> None:
        super().__init__(reason, remedy)
        self.reason, self.remedy = reason, remedy

    def __str__(self) -> str:
        """One sentence: the reason, the remedy."""
        return (
            f"Ray could not be started on this machine ({self.reason}); nothing was begun: "
            f"{self.remedy}"
        )


class UnreachableError(CastlingError, ConnectionError):
    """The processes of a training do not reach one another."""

    def __init__(
        self, address: str, rank: int, num_processes: int, seconds: float, reason: str
    ) -> None:
        super().__init__(address, rank, num_processes, seconds, reason)
        self.address, self.rank, self.num_processes = address, rank, num_processes
        self.seconds, self.reason = seconds, reason

    def __str__(self) -> str:
        """One sentence: the address, the time limit, what to check."""
        return (
            f"the {self.num_processes} processes of a training must all reach {self.address} "
            f"within {self.seconds:g} s, process {self.rank} did not ({one_line(self.reason, 300)}"
            "); check that all were started, that no firewall is between the machines, and that "
            "GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME names the network that joins them"
        )


class CheckpointError(CastlingError, ValueError):
    """A weights file is truncated, foreign or does not fit its config."""

    def __init__(
        self, path: str, reason: str, fix: str = "restore the file or export again"
    ) -> None:
        super().__init__(path, reason, fix)
        self.path, self.reason, self.fix = path, reason, fix

    def __str__(self) -> str:
        """One sentence: the file, the reason, the remedy."""
        return f"{self.path}: cannot be loaded, {self.reason}; {self.fix}"


class DataError(CastlingError, ValueError):
    """A dataset is missing or unreadable."""

    def __init__(self, name: str, reason: str, fix: str) -> None:
        super().__init__(name, reason, fix)
        self.name, self.reason, self.fix = name, reason, fix

    def __str__(self) -> str:
        """One sentence: the dataset, the reason, the remedy."""
        return f"data {self.name}: {self.reason}; {self.fix}"


class UncountedOperatorError(CastlingError, ArithmeticError):
    """A traced graph contains operators that are neither counted nor allowed to cost nothing."""

    is_bad_input = False

    def __init__(self, operators: Iterable[str]) -> None:
        operators = tuple(operators)
        super().__init__(operators)
        self.operators = operators

    def __str__(self) -> str:
        """One sentence that names the operators."""
        return (
            f"MACs cannot be measured: no count is known for {', '.join(self.operators)}; "
            "where it has no multiply-adds, list it in `free` of its operator's OperatorSpec, "
            "else give its count in `handles`"
        )


class OperatorError(CastlingError, ValueError):
    """An operator, perhaps from a plugin, cannot be searched as it declares itself."""

    def __init__(self, name: str, reason: str, fix: str) -> None:
        super().__init__(name, reason, fix)
        self.name, self.reason, self.fix = name, reason, fix

    def __str__(self) -> str:
        """One sentence: the operator, what is wrong, the remedy."""
        return f"operator {self.name}: {self.reason}; {self.fix}"


class CostMismatchError(CastlingError, ArithmeticError):
    """Closed-form cost and measured cost disagree."""

    is_bad_input = False

    def __init__(self, quantity: str, closed_form: int, measured: int) -> None:
        super().__init__(quantity, closed_form, measured)
        self.quantity, self.closed_form, self.measured = quantity, closed_form, measured

    def __str__(self) -> str:
        """One sentence with both counts."""
        return (
            f"closed-form {self.quantity} must equal the measured count, "
            f"got {self.closed_form:,} and {self.measured:,}"
        )


class DivergedError(CastlingError, ArithmeticError):
    """Loss or gradient norm stopped being finite during training."""

    is_bad_input = False

    def __init__(self, what: str, epoch: int, step: int, value: float) -> None:
        super().__init__(what, epoch, step, value)
        self.what, self.epoch, self.step, self.value = what, epoch, step, value

    def __str__(self) -> str:
        """One sentence: what, when, which value."""
        return (
            f"{self.what} must be finite, got {self.value} at epoch {self.epoch}, step {self.step}"
        )


class RecordError(CastlingError, ValueError):
    """A stored record cannot be read."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        """One sentence: the file and the reason."""
        return f"{self.path}: not a readable record, {one_line(self.reason, LONGEST_REASON)}"


def one_line(text: str, limit: int = 2_000) -> str:
    """Return a text of others as one line that a terminal shows and does not obey.

    Line ends, control characters and what reorders text are escaped; the middle of what is too
    long is left out.
    """
    if len(text) > limit:
        text = f"{text[: limit // 2]}…{text[-(limit // 2) :]}"
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def first_line(error: Exception) -> str:
    """Return the first line of another library's error, shortened to 300 characters."""
    return one_line(str(error).strip().partition("\n")[0], 300)


def _short(value: object, limit: int = 80) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits, or more levels, than Python writes
        text = f"an unwritable {type(value).__name__}"
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
