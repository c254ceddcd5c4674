"""Makes a sampler from its name, and checks whether it fits a search."""

from castling.errors import UnknownNameError
from search.context import SearchContext
from search.samplers import SAMPLERS, SamplerSpec
from search.samplers.optuna_samplers import PREFIX, rehearse, sampler_of_class


def sampler_named(name: str) -> SamplerSpec:
    """Return the sampler of a registered name, or of `optuna:` and a class of Optuna's.

    Raises:
        UnknownNameError: when there is none.
        ConfigError: when it pickles what it has learnt into the study.
    """
    if name.startswith(PREFIX):
        return sampler_of_class(name)
    if name not in SAMPLERS:
        raise UnknownNameError("sampler", name, [*SAMPLERS, f"{PREFIX}CLASS"])
    return SAMPLERS[name]


def check_sampler(name: str, context: SearchContext) -> None:
    """Raise ConfigError unless a sampler can search this space for these objectives.

    Registered samplers can. Any other must propose for a dozen made-up trials.
    """
    if name.startswith(PREFIX):
        rehearse(name, sampler_of_class(name), context)
