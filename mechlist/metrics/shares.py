"""How sure a share is that was counted on a sample."""

import math
from statistics import NormalDist

from mechlist.errors import InputError


def share_interval(
    hits: int, sample: int, *, population: int | None = None, level: float | int = 0.95
) -> tuple[float, float]:
    """Both ends of Wilson's score interval of a share (Wilson 1927), for a sample drawn without replacement.

    From a finite population the sample says more than from an endless one: it counts as
    sample * (population - 1) / (population - sample) draws, and a sample of all of it leaves no doubt.

    Args:
        hits: units of the sample that count.
        sample: units that were drawn.
        population: units that they were drawn from; endless by default.
        level: of confidence.

    Raises:
        InputError: no unit, more hits than units, a sample larger than its population, or a level outside 0 to 1.
    """
    if not 0 <= hits <= sample or sample < 1 or (population is not None and sample > population):
        of = "" if population is None else f" of {population}"
        raise InputError(f"hits must be from 0 to the units of the sample, not {hits} of {sample}{of}.")
    if not 0 < level < 1:
        raise InputError(f"level must be between 0 and 1, not {level}.")
    share = hits / sample
    if sample == population:
        return share, share
    draws = sample if population is None else sample * (population - 1) / (population - sample)
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z * z / (2 * draws)) / (1 + z * z / draws)
    half = z / (1 + z * z / draws) * math.sqrt(share * (1 - share) / draws + z * z / (4 * draws * draws))
    return max(0.0, middle - half), min(1.0, middle + half)
