"""What a configuration costs: python -m eanet.cost --config=FILE [--config.FIELD=VALUE …] [--match=FILE].

Prints parameters, multiply-adds and activation memory of one image. With --match, the values of
dim, or of a size of the attention, that bring the first configuration nearest to the second in parameters or in
multiply-adds.
"""

import functools
import re
import sys
from collections.abc import Callable, Iterable

import jax
import ml_collections

from eanet import cache, cli
from eanet.attention import ATTENTIONS
from eanet.config import rules
from eanet.data import datasets as data
from eanet.errors import UserError
from eanet.model import footprint
from eanet.model.footprint import Footprint
from eanet.model.vision_transformer import VisionTransformer, build_model
from eanet.run.interruption import Interruption

# Height, width, channels and classes, so that costs need no data.
IMAGES = {
    "digits": ((8, 8, 1), 10),
    "cifar100": ((32, 32, 3), 100),
    "cifar10": ((32, 32, 3), 10),
    "svhn_cropped": ((32, 32, 3), 10),
    "mnist": ((28, 28, 1), 10),
    "fashion_mnist": ((28, 28, 1), 10),
}
_LARGEST = 512  # value that --match tries
_NEAR = 0.1  # relative; more is not a match


def of_config(config: ml_collections.ConfigDict) -> tuple[VisionTransformer, tuple[int, ...]]:
    """Return the model that a configuration describes and the shape of its images."""
    if config.data.name in IMAGES:
        image_shape, classes = IMAGES[config.data.name]
    else:
        dataset = data.load(config.data)
        image_shape, classes = dataset.train.images.shape[1:], len(dataset.class_names)
    rules.validate_for_images(config, image_shape)
    return build_model(config.model, classes), image_shape


def match(config: ml_collections.ConfigDict, target: Footprint) -> list[tuple[str, str, int, Footprint]]:
    """Find, for each size that may change, the values nearest in `parameters` and in `mmac`.

    Returns (field, cost that was matched, value, cost with that value), in the order of a reader's interest; nothing
    of a field that has no accepted value up to 512.
    """
    found = []
    own = getattr(ATTENTIONS[config.model.attention], "MATCHED", ())
    for field in (*own, "dim"):
        cost = functools.cache(functools.partial(_cost_with, config, field))
        low, high = _first(range(1, _LARGEST + 1), cost), _first(range(_LARGEST, 0, -1), cost)
        if low is None or high is None:
            continue
        for what in ("parameters", "mmac"):
            value = _nearest(low, high, cost, what, getattr(target, what))
            found.append((field, what, value, cost(value)))
    return found


def _cost_with(config: ml_collections.ConfigDict, field: str, value: int) -> Footprint | None:
    """Return the cost of a configuration with another value of a field of the model; None if it is not accepted."""
    trial = ml_collections.ConfigDict(config.to_dict())
    trial.model[field] = value
    try:
        rules.validate(trial)
    except UserError:
        return None
    return Footprint(*of_config(trial))


def _first(values: Iterable[int], cost: Callable[[int], Footprint | None]) -> int | None:
    return next((value for value in values if cost(value)), None)


def _nearest(low: int, high: int, cost: Callable[[int], Footprint | None], what: str, wanted: float) -> int:
    """Bisect between two accepted values, because every cost grows with every size."""
    while True:
        half = (low + high) // 2
        middle = _first([*range(half, low, -1), *range(half + 1, high)], cost)
        if middle is None:
            return min((low, high), key=lambda value: abs(getattr(cost(value), what) - wanted))
        low, high = (middle, high) if getattr(cost(middle), what) <= wanted else (low, middle)


def main() -> None:
    """Parse the command line and print the costs."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(__doc__.strip())
        return
    targets = [argument.partition("=")[2] for argument in arguments if argument.startswith("--match=")]
    file, config = cli.read_config([argument for argument in arguments if not argument.startswith("--match=")])
    overrides = [argument for argument in arguments if re.match("--?(no)?config[.]", argument)]
    name = " ".join([file, *(override.removeprefix("--config.") for override in overrides)])
    cache.keep_compiled_programs()
    configs = [(name, config), *((target, cli.read_config([f"--config={target}"])[1]) for target in targets[-1:])]
    costs, networks = [], [of_config(one) for _, one in configs]
    width = max(28, *(len(name) + 2 for name, _ in configs))
    print(f"{'':<{width}}{'parameters':>12}{'MMAC':>10}{'executed':>10}{'MiB, training':>15}")
    for (name, _), (model, image_shape) in zip(configs, networks, strict=True):
        costs.append(footprint.Footprint(model, image_shape))
        memory = footprint.activation_bytes(model, image_shape) / 2**20
        print(f"{name:<{width}}{_row(costs[-1])}{memory:>15.1f}")
    if targets:
        print(f"\nNearest to {targets[-1]}, one size changed:")
        print(f"{'':<{width}}{'parameters':>12}{'MMAC':>10}{'executed':>10}{'off by':>15}")
        far = []
        for field, what, value, cost in match(config, costs[1]):
            off, what_shown = getattr(cost, what) / getattr(costs[1], what) - 1, "MMAC" if what == "mmac" else what
            if abs(off) > _NEAR:
                far.append(f"{field} in {what_shown}")
                continue
            print(f"{f'{field}={value}':<{width}}{_row(cost)}{off:>+15.1%} in {what_shown}")
        if far:
            print(f"No value comes within {_NEAR:.0%}: {', '.join(far)}")
    print(
        "\nPer image. MMAC: million multiply-adds of a forward pass as published; executed: as this code multiplies it "
        f"out. Memory:\ntemporary memory of the compiled gradient, batch {footprint.BATCH}, {jax.default_backend()}."
    )


def _row(cost: Footprint) -> str:
    return f"{cost.parameters:>12,}{cost.mmac:>10.1f}{cost.mmac_executed:>10.1f}"


if __name__ == "__main__":
    with Interruption(may_exit=True):
        sys.exit(cli.run(main))
