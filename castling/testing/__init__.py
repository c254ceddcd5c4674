"""Contract tests for parts that other packages add: a test class inherits one and names its part.

```python
from castling.testing import OperatorContract


class TestAverage(OperatorContract):
    operator = "average"
```

Operators, datasets, tasks and metrics have theirs here. Those of spaces stand in `space.testing`,
those of samplers, stoppers and recipes in `search.testing`. All need pytest and hypothesis.
"""

from importlib import import_module

from castling.testing.requirements import check_libraries


check_libraries()
import_module("pytest").register_assert_rewrite(
    *(f"castling.testing.{name}" for name in ("datasets", "metrics", "operators", "tasks")),
    "castling.testing.saved_models",
)

from castling.testing.datasets import DatasetContract  # noqa: E402 - its assertions are rewritten
from castling.testing.metrics import MetricContract  # noqa: E402
from castling.testing.operators import OperatorContract  # noqa: E402
from castling.testing.tasks import TaskContract  # noqa: E402


__all__ = ["DatasetContract", "MetricContract", "OperatorContract", "TaskContract"]
