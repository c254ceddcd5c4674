"""Models inside the wrappers of torch: DistributedDataParallel and torch.compile."""

from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model that torch's wrappers hold; a model without one is returned itself."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(original := getattr(model, "_orig_mod", None), nn.Module):
            model = original  # of torch.compile
        else:
            return model
