"""Many seeds in one program against as many processes: python -m benchmarks.seeds [--seeds=1,2,4,8,16].

Images per second, summed over the seeds, of the Keras example's EANet. The processes of one row train at the same time,
as separate runs on one machine would; repetitions alternate between the two, and the ratio is taken within a round.
"""

import dataclasses
import statistics
import sys
import time
from typing import Any

from rich.progress import track

from benchmarks.measurement import counted, machine, write_json
from benchmarks.sizes import Sizes
from benchmarks.throughput import TOY, Contender
from eanet import cli


def seconds(contenders: list[Contender]) -> float:
    """Let all train at the same time; gives the wall time until the last is done."""
    started = time.perf_counter()
    for contender in contenders:
        contender.start("train")
    for contender in contenders:
        contender.finish()
    return time.perf_counter() - started


def measure(count: int, settings: dict[str, Any], repetitions: int) -> dict[str, Any]:
    """Measure so many seeds in one program and in as many processes."""
    ways = {
        "one program": [Contender("ours", settings | {"seeds": count})],
        "processes": [Contender("ours", settings) for _ in range(count)],
    }
    images = count * settings["steps"] * settings["batch"]
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repetitions):
        for way, contenders in ways.items():
            rates[way].append(images / seconds(contenders))
    memory = {way: sum(one.measure("predict")["peak_mib"] for one in contenders) for way, contenders in ways.items()}
    for contender in sum(ways.values(), []):
        contender.close()
    ratios = [ours / theirs for ours, theirs in zip(*rates.values(), strict=True)]
    return {"seeds": count, "images_per_second": rates, "ratio": statistics.median(ratios), "peak_mib": memory}


def table(rows: list[dict[str, Any]]) -> str:
    """Format measurements as Markdown."""
    lines = [
        "| seeds | one program, images/s | processes, images/s | ratio | peak MiB | peak MiB, processes |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = [str(row["seeds"])]
        cells += [
            f"{statistics.median(rates):.1f} ({min(rates):.1f}–{max(rates):.1f})"
            for rates in row["images_per_second"].values()
        ]
        cells += [f"{row['ratio']:.2f}", *(f"{mib:.0f}" for mib in row["peak_mib"].values())]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, measure, print the table and write JSON."""
    parser = cli.Parser("python -m benchmarks.seeds", __doc__)
    parser.add_argument("--seeds", default="1,2,4,8,16", help="default: 1,2,4,8,16")
    parser.add_argument("--at-once", type=int, default=0, help="config.seeds_per_call (default: 0, by platform)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=1, help="batches of a repetition (default: 1)")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--toy", action="store_true", help="a tiny network, to try the benchmark itself")
    parser.add_argument("--out", default="", help="JSON file (default: runs/seeds.json)")
    arguments = parser.parse_args()
    counts = arguments.seeds.split(",")
    if not all(count.isdigit() and int(count) for count in counts):
        parser.error(f"--seeds: {arguments.seeds!r}; accepted: whole numbers above 0, with commas between")
    settings = {
        "sizes": dataclasses.asdict(Sizes(**(TOY if arguments.toy else {}))),
        **{"batch": arguments.batch, "steps": arguments.steps, "augmented": False, "at_once": arguments.at_once},
    }
    rows = [measure(int(count), settings, arguments.repetitions) for count in track(counts, "measuring")]
    toy = "-toy" if arguments.toy else ""
    out = write_json(arguments.out or f"runs/seeds{toy}.json", {"settings": settings, "rows": rows})
    print(f"\n{table(rows)}\n\nMedian (range) of {counted(arguments.repetitions, 'repetition')}; {machine()}; {out}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
