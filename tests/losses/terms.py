"""The losses with the defaults of their settings, where a test says nothing else."""

from functools import partial

from gare_cache.losses import increment
from gare_cache.losses import ncl as ncl_module
from gare_cache.losses.settings import LossSettings, NclSettings
from gare_cache.settings import arguments

_DEFAULTS = {
    name: arguments(settings, without=("weight", "learned"))
    for name, settings in LossSettings().regularisers.items()
}
information_bottleneck = partial(increment.information_bottleneck, **_DEFAULTS["ib"])
norm_spread = partial(increment.norm_spread, **_DEFAULTS["eps"])
direction_diversity = partial(increment.direction_diversity, **_DEFAULTS["dir"])
orthogonality = partial(increment.orthogonality, **_DEFAULTS["orthogonality"])
trust_region = partial(increment.trust_region, **_DEFAULTS["trust_region"])
ncl = partial(ncl_module.ncl, **arguments(NclSettings()))
