"""Training speed of configurations side by side: python -m benchmarks.variants [--config=FILE] 'FIELD=VALUE …' ….

Each argument is a variant of the configuration, 'train.microbatch=32 model.dtype=bfloat16' say; the unchanged one comes
first. All are compiled in one process; repetitions alternate between them, and ratios are taken within a round. Random
images of CIFAR-100's shape, whatever data set the configuration names.
"""

import statistics
import sys
import time
from collections.abc import Callable

import ml_collections
from rich.progress import track

from benchmarks.measurement import counted, machine, random_dataset, write_json
from eanet import cache, cli
from eanet.training import sharding
from eanet.training.trainer import Trainer


def compile_variant(config: ml_collections.ConfigDict, steps: int) -> tuple[Callable[[], None], float]:
    """Compile a configuration's training; gives a function that trains some steps, and the seconds of compiling."""
    dataset = random_dataset(steps * config.train.batch_size)
    trainer = Trainer(config, dataset, sharding.make_mesh(config.num_seeds))
    arrays, state = trainer.put(dataset.train), [trainer.init()]
    trainer.compile_training(*arrays)

    def train() -> None:
        state[0], *_ = trainer.train(state[0], *arrays, steps)

    train()
    return train, trainer.seconds_compile


def measure(configs: dict[str, ml_collections.ConfigDict], steps: int, repetitions: int) -> list[dict]:
    """Measure images per second, summed over seeds; the first configuration is what the others are compared with."""
    compiled = {name: compile_variant(config, steps) for name, config in track(configs.items(), "compiling")}
    rates: dict[str, list[float]] = {name: [] for name in configs}
    for _ in track(range(repetitions), "measuring"):
        for name, (train, _) in compiled.items():
            started = time.perf_counter()
            train()
            images = steps * configs[name].train.batch_size * configs[name].num_seeds
            rates[name].append(images / (time.perf_counter() - started))
    base = next(iter(rates.values()))
    return [
        {
            "name": name,
            "images_per_second": values,
            "ratio": statistics.median(value / first for value, first in zip(values, base, strict=True)),
            "seconds_compile": compiled[name][1],
        }
        for name, values in rates.items()
    ]


def table(rows: list[dict]) -> str:
    """Format measurements as Markdown."""
    lines = ["| variant | training images/s | against the first | compiling s |", "| --- | ---: | ---: | ---: |"]
    for row in rows:
        rates = row["images_per_second"]
        speed = f"{statistics.median(rates):.1f} ({min(rates):.1f}–{max(rates):.1f})"
        lines.append(f"| {row['name']} | {speed} | {row['ratio']:.2f} | {row['seconds_compile']:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, measure, print the table and write JSON."""
    parser = cli.Parser("python -m benchmarks.variants", __doc__)
    parser.add_argument("variants", nargs="*", metavar="'FIELD=VALUE …'")
    parser.add_argument("--config", default="configs/eanet.py")
    parser.add_argument("--steps", type=int, default=1, help="batches of a repetition (default: 1)")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", default="runs/variants.json", help="JSON file (default: runs/variants.json)")
    arguments = parser.parse_args()
    cache.keep_compiled_programs()
    configs = {
        name: cli.read_config([f"--config={arguments.config}", *(f"--config.{field}" for field in name.split())])[1]
        for name in dict.fromkeys(("", *arguments.variants))
    }
    named = {name or arguments.config: config for name, config in configs.items()}
    rows = measure(named, arguments.steps, arguments.repetitions)
    out = write_json(arguments.out, {"rows": rows})
    print(f"\n{table(rows)}\n\nMedian (range) of {counted(arguments.repetitions, 'repetition')}; {machine()}; {out}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
