"""The interval of a difference over new seeds and new test images at once."""

import dataclasses
import math

import numpy as np
from scipy import stats

from eanet.statistics.power import LEVEL


@dataclasses.dataclass(frozen=True)
class SeedsAndImages:
    """The spread of a difference in accuracy over seeds and over test images; half_width is NaN for one seed."""

    half_width: float  # of the 95% interval
    error_seeds: float  # standard error over the seeds, the images given
    error_images: float  # standard error that more seeds would leave: the images' own


def seeds_and_images(ours: np.ndarray, theirs: np.ndarray, paired: bool) -> SeedsAndImages:
    """Estimate how far a difference in accuracy may be off, with seeds and images both drawn from populations.

    ours and theirs are bool [seeds, images], True where a network is right; the images are the same. Each answer is
    modelled as a mean, an effect of its seed, one of its image, and a rest (two-way random effects). The seeds' part is
    the t interval over seeds (Welch's degrees of freedom if not paired); the images' own variance is that of the
    images' means less what the rest adds to it. The half widths of both are combined as the root of the sum of their
    squares (Zou & Donner 2008), so that the interval is never narrower than that over seeds alone.

    With few seeds it covers more often than the two alternatives, which is tested: one t interval of the summed
    variance with Satterthwaite's degrees of freedom, and a crossed bootstrap (Owen 2007).
    Raises ValueError if paired arms differ in their number of seeds, or arms in their images.
    """
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"answers to {ours.shape[1]} and to {theirs.shape[1]} images cannot be compared")
    if paired and len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} seeds are not pairs")
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    parts = [ours - theirs] if paired else [ours, -theirs]
    if min(map(len, parts)) < 2:
        return SeedsAndImages(*[math.nan] * 3)
    images = ours.shape[1]
    seeds_terms = [(np.var(part.mean(axis=1), ddof=1) / len(part), len(part) - 1) for part in parts]
    per_image = np.var(sum(part.mean(axis=0) for part in parts), ddof=1) / images
    seeds, rest = sum(variance for variance, _ in seeds_terms), sum(_rest(part) / part.size for part in parts)
    own = max(per_image - rest, 0.0)  # estimates of a small variance may be below 0
    if seeds + own == 0:
        return SeedsAndImages(*[math.nan] * 3)
    squares = sum(variance**2 / df for variance, df in seeds_terms)
    df = seeds**2 / squares if squares else 1.0  # of no consequence if the seeds do not vary
    errors = math.sqrt(seeds), math.sqrt(own)
    half_widths = (
        float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
        for freedom, error in zip((df, images - 1), errors, strict=True)
    )
    return SeedsAndImages(math.hypot(*half_widths), *errors)


def _rest(answers: np.ndarray) -> float:
    """Return the mean square of what neither the seed nor the image explains."""
    seeds, images = answers.shape
    left = answers - answers.mean(axis=1, keepdims=True) - answers.mean(axis=0, keepdims=True) + answers.mean()
    return float(np.sum(left**2)) / ((seeds - 1) * (images - 1))
