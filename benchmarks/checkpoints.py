"""What a checkpoint costs training: python -m benchmarks.checkpoints [--config=FILE] [--steps=N].

Trains short epochs alternately without and with a checkpoint at their beginning, which is written while training
continues. Prints what the checkpoint adds to such an epoch, and to one of the Keras example's length.
"""

import statistics
import sys
import tempfile
import time

import ml_collections
from rich.progress import track

from benchmarks.measurement import machine, random_dataset, write_json
from eanet import cache, cli
from eanet.run.checkpoint import Checkpoints
from eanet.training import experiment, members, sharding
from eanet.training.trainer import Trainer

_EPOCH_IMAGES = 40_000  # CIFAR-100's training split
_MOST = 0.02  # of an epoch's time, with a checkpoint an epoch


def measure(config: ml_collections.ConfigDict, steps: int, repetitions: int, directory: str) -> dict:
    """Return the seconds of every epoch without and with a checkpoint, and of them those in which training waits."""
    dataset = random_dataset(steps * config.train.batch_size)
    trainer = Trainer(config, dataset, sharding.make_mesh(len(members.members_from_config(config.to_dict()))))
    checkpoints = Checkpoints(directory, config.checkpoint.keep)
    arrays, state = trainer.put(dataset.train), trainer.init()
    trainer.compile_training(*arrays)
    seconds: dict[str, list[float]] = {"without": [], "with": [], "waiting": []}
    for number in track(range(2 * repetitions + 2), "measuring"):
        started = time.perf_counter()
        if number % 2:
            checkpoints.save(state, number, config.to_dict(), {})
        waited = time.perf_counter() - started
        state, *_ = trainer.train(state, *arrays, steps)
        elapsed = time.perf_counter() - started
        checkpoints.wait()  # a slow disk would reach into the next epoch
        if number < 2:
            continue  # what is done for the first time takes longer
        seconds["with" if number % 2 else "without"].append(elapsed)
        if number % 2:
            seconds["waiting"].append(waited)
    checkpoints.close()
    return seconds


def describe(seconds: dict[str, list[float]], config: ml_collections.ConfigDict, steps: int) -> str:
    """Return the cost in milliseconds and as a share of an epoch."""
    pairs = list(zip(seconds["with"], seconds["without"], strict=True))
    costs = [with_one - without for with_one, without in pairs]
    cost, epoch = statistics.median(costs), statistics.median(seconds["without"])
    whole = epoch / steps * experiment.steps_per_epoch(_EPOCH_IMAGES, config.train.batch_size)
    waiting = statistics.median(seconds["waiting"])
    return (
        f"A checkpoint adds {1000 * cost:.0f} ms ({1000 * min(costs):.0f} to {1000 * max(costs):.0f}) to an epoch of "
        f"{epoch:.2f} s with {steps} steps ({cost / epoch:.1%}); for {1000 * waiting:.0f} ms of it training waits.\n"
        f"Of an epoch of {_EPOCH_IMAGES:,} images, {whole:.0f} s at this speed, it is {cost / whole:.2%}; "
        f"at most {_MOST:.0%}: {'yes' if cost <= _MOST * whole else 'no'}."
    )


def main() -> None:
    """Parse the command line, measure, print and write JSON."""
    parser = cli.Parser("python -m benchmarks.checkpoints", __doc__)
    parser.add_argument("--config", default="configs/eanet.py", help="default: configs/eanet.py")
    parser.add_argument("--steps", type=int, default=5, help="steps of an epoch (default: 5)")
    parser.add_argument("--repetitions", type=int, default=5, help="default: 5")
    parser.add_argument("--out", default="runs/checkpoints.json", help="JSON file (default: runs/checkpoints.json)")
    arguments = parser.parse_args()
    cache.keep_compiled_programs()
    config = cli.read_config([f"--config={arguments.config}"])[1]
    with tempfile.TemporaryDirectory(prefix="eanet-checkpoints-") as directory:
        seconds = measure(config, arguments.steps, arguments.repetitions, directory)
    facts = {"config": arguments.config, "steps": arguments.steps, "seconds": seconds}
    out = write_json(arguments.out, facts)
    how = f"{arguments.config}; n = {arguments.repetitions}; {machine()}; {out}"
    print(f"\n{describe(seconds, config, arguments.steps)}\n{how}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
