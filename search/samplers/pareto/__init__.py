"""The sampler that knows the cost: a surrogate of what must be learnt, exact improvement."""
