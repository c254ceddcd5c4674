"""The device of a model that is used outside a training, from what a user writes."""

import torch

from castling.errors import ConfigError


def device_of(name: str | None) -> torch.device:
    """Return the device of a name of torch's; None takes a GPU where there is one.

    Raises:
        ConfigError: when this machine has no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    # torch raises AssertionError where it was built without CUDA, NotImplementedError for "meta"
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0][:120]
        rule = f"must be a device of this machine, such as cpu or cuda ({reason})"
        raise ConfigError("device", rule, name) from None
    return device
