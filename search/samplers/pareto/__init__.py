"""The sampler `pareto`: a surrogate of learnt metrics, exact costs, expected improvement."""
