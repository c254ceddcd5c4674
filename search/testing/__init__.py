"""Contract tests of samplers, stoppers and recipes that other packages add.

```python
from search.testing import SamplerContract


class TestNeighbours(SamplerContract):
    sampler = "neighbours"
```

They need the extra `testing`, as `castling.testing` does.
"""

from importlib import import_module

from castling.testing.requirements import check_libraries


check_libraries()
import_module("pytest").register_assert_rewrite(
    *(f"search.testing.{name}" for name in ("recipes", "samplers", "stoppers", "studies"))
)

from search.testing.recipes import RecipeContract  # noqa: E402 - its assertions are rewritten
from search.testing.samplers import SamplerContract  # noqa: E402
from search.testing.stoppers import StopperContract  # noqa: E402


__all__ = ["RecipeContract", "SamplerContract", "StopperContract"]
