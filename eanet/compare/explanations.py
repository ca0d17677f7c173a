"""What the tables and the report of a comparison say of their numbers: how they were made, and what they leave open."""

from eanet import statistics
from eanet.compare.comparison import Comparison
from eanet.compare.verdict import points
from eanet.training.members import SOURCES


def explanations(comparison: Comparison) -> list[str]:
    """Say how the numbers were made and what they leave open."""
    level = f"{statistics.LEVEL:.0%}"
    lines = [
        f"± is a {level} Student t interval over seeds, given for accuracies and losses; they are without it where "
        "n = 1 or nothing varies. An interval that reaches beyond 0 or 100% is cut there, and written with its ends. "
        "All other columns are means.",
        "Differences are paired by seed (paired t) where two seeds or more are shared, else Welch's t; p-values are "
        "adjusted for the number of rows (Holm). McNemar's test asks of pairs of trained networks whether they are "
        "right on the same test images (exact, twice the median over pairs, each direction by itself), the t test asks "
        "about the methods. Intervals are not widened for the number of rows.",
        f"Detectable: the smallest true difference that this n finds with {statistics.POWER:.0%} power at 5%, with the "
        "number of rows considered, if the spread is as estimated.",
        f"± with images: half of the {level} interval over new seeds and new test images at once (two-way random "
        "effects). The t interval answers whether the methods differ on these test images, this one whether they do on "
        "others of the same kind. P(ahead): how likely the arm is ahead of the baseline with a new seed on these test "
        f"images, with its {level} interval (normal populations).",
        *_of_equivalence(comparison),
        *_of_spreads(comparison),
        "MMAC: million multiply-adds of a forward pass of one image, layer by layer as published. Activation memory: "
        "of the compiled training step, per image, on the device that ran it.",
    ]
    if any(len(arm.runs) == 1 for arm in comparison.arms):
        lines.append(
            "Some arms have n = 1: they get no interval and no p-value over seeds, because one run says nothing "
            "about the spread between seeds. McNemar's p is then of one trained network against another, and says "
            "nothing of the methods or of other seeds."
        )
    for field, values in comparison.also_differ.items():
        lines.append(f"The runs also differ in {field}: {', '.join(map(str, values))}.")
    return lines + comparison.notes


def _of_equivalence(comparison: Comparison) -> list[str]:
    if not comparison.margin:
        return []
    return [
        "Equivalence: two one-sided t tests at 5%, that the arm is neither behind nor ahead by "
        f"{points(comparison.margin)} or more. Before Holm's correction, p below 5% is the same as a 90% interval "
        "within the margin. Undecided: neither a difference nor equivalence is shown; with the seeds named, of each "
        f"arm, one of the two would be found with {statistics.POWER:.0%} power if the difference and its spread are as "
        f"estimated; in brackets, if the spread is at its upper {statistics.POWER:.0%} limit. Adding seeds until a "
        "test decides errs in more than 5% of cases: fix their number first, or test the new ones by themselves."
    ]


def _of_spreads(comparison: Comparison) -> list[str]:
    if not comparison.spreads:
        return []
    sources = "; ".join(f"{name}: {what}" for name, what in SOURCES.items())
    return [
        f"By what follows the seed: the other sources are seed 0's in all runs (config.fixed). {sources}. In brackets, "
        "the 95% interval of the ratio of variances (F distribution). Each source is varied by itself and the others "
        "stay those of seed 0, so that what sources do together counts under each of them: the ratios usually sum to "
        "more than 100%."
    ]
