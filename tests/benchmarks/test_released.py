import json
from pathlib import Path

import numpy as np
import pytest
import torch
from released import ReleasedBlock


VECTORS = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("branch", [False, True], ids=["plain", "auxiliary"])
def test_what_we_are_timed_against_computes_what_was_released(branch: bool) -> None:
    with np.load(VECTORS / f"linear_angular_{'auxiliary' if branch else 'plain'}.npz") as recorded:
        arrays = {key: recorded[key] for key in recorded.files}
    meta = json.loads(str(arrays["meta"]))
    block = ReleasedBlock(meta["dim"], meta["num_heads"], branch=branch, taps=meta["kernel_size"])
    if not meta["qkv_bias"]:
        block.qkv.bias = None
    block.load_state_dict(
        {
            name.removeprefix("param."): torch.from_numpy(value)
            for name, value in arrays.items()
            if name.startswith("param.")
        }
    )
    torch.testing.assert_close(
        block(torch.from_numpy(arrays["in.x"])),
        torch.from_numpy(arrays["out"]),
        rtol=1e-5,
        atol=1e-5,
    )
