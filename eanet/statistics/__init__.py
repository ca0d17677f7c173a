"""What a comparison of a few seeds may claim: everything from plain numbers, with the distributions of SciPy."""

from eanet.statistics.crossed import SeedsAndImages, seeds_and_images
from eanet.statistics.differences import (
    ONE_SEED,
    ROUNDING,
    Difference,
    Estimate,
    combine_p_values,
    difference,
    estimate,
    holm,
    mcnemar,
    untested,
)
from eanet.statistics.equivalence import Equivalence, equivalence
from eanet.statistics.power import (
    LEVEL,
    MOST_SEEDS,
    POWER,
    detectable_difference,
    deviation_limit,
    power_of_difference,
    power_of_equivalence,
    seeds_for_difference,
    seeds_for_equivalence,
    seeds_for_superiority,
)
from eanet.statistics.superiority import Superiority, superiority

__all__ = [
    "LEVEL",
    "MOST_SEEDS",
    "ONE_SEED",
    "POWER",
    "ROUNDING",
    "Difference",
    "Equivalence",
    "Estimate",
    "SeedsAndImages",
    "Superiority",
    "combine_p_values",
    "detectable_difference",
    "deviation_limit",
    "difference",
    "equivalence",
    "estimate",
    "holm",
    "mcnemar",
    "power_of_difference",
    "power_of_equivalence",
    "seeds_and_images",
    "seeds_for_difference",
    "seeds_for_equivalence",
    "seeds_for_superiority",
    "superiority",
    "untested",
]
