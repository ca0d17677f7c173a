"""Images per second of this project and its peers, side by side: python -m benchmarks.throughput [options].

Every contender trains and predicts with the same network, batch, dropout and optimizer in a process of its own; the
repetitions alternate between the contenders, so that changes in the machine's speed affect all alike. Ratios are taken
within a round. Contenders that are not installed are named and left out.
"""

import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from typing import Any

from rich.progress import track

from benchmarks.contender import our_config
from benchmarks.measurement import counted, machine, product_flops, write_json
from benchmarks.sizes import CHANNELS, Sizes
from eanet import cli
from eanet.model.footprint import Footprint
from eanet.model.vision_transformer import build_model

# name: (package, environment, batch that differs from the others' or 0, can augment)
CONTENDERS = {
    "ours": ("jax", {}, 0, True),
    "keras-jax": ("keras", {"KERAS_BACKEND": "jax"}, 0, True),
    "keras-tensorflow": ("keras", {"KERAS_BACKEND": "tensorflow"}, 0, True),
    "torch": ("torch", {}, 0, False),
    "torch, batch 16": ("torch", {}, 16, False),
    "torch.compile": ("torch", {}, 0, False),
}
_DEFAULT = ("ours", "keras-jax", "keras-tensorflow", "torch", "torch, batch 16")
TOY = {"side": 8, "width": 16, "hidden": 16, "depth": 1, "classes": 10}


class Contender:
    """A process that trains and predicts when told to."""

    def __init__(self, name: str, settings: dict[str, Any]):
        _, environment, batch, _ = CONTENDERS[name]
        # A batch of another size sees as many images.
        own = settings | ({"batch": batch, "steps": settings["steps"] * settings["batch"] // batch} if batch else {})
        command = [sys.executable, "-m", "benchmarks.contender", name.partition(",")[0], json.dumps(own)]
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | quiet | environment,
        )
        self.facts = self._read()

    def _read(self) -> dict[str, float]:
        line = self._process.stdout.readline()
        while line and not line.startswith("{"):  # a library's own remarks
            line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self._process.args)} ended with exit code {self._process.wait()}")
        return json.loads(line)

    def measure(self, what: str) -> dict[str, float]:
        """Train or predict once over all images."""
        self.start(what)
        return self.finish()

    def start(self, what: str) -> None:
        """Let it train or predict, and do not wait for it."""
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()

    def finish(self) -> dict[str, float]:
        """Wait for what was started."""
        return self._read()

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def measure(names: list[str], settings: dict[str, Any], repetitions: int) -> list[dict[str, Any]]:
    """Measure contenders round by round; the first is what the others are compared with."""
    contenders = {name: Contender(name, settings) for name in track(names, "starting and compiling")}
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in track(range(repetitions), "measuring"):
        for name, contender in contenders.items():
            rounds[name].append({what: contender.measure(what) for what in ("train", "predict")})
    for contender in contenders.values():
        contender.close()
    counts = {contender.facts["parameters"] for contender in contenders.values()}
    if len(counts) > 1:
        raise SystemExit(f"the contenders' networks differ: {sorted(counts)} parameters")
    return [_summary(name, contenders[name].facts, rounds[name], rounds[names[0]]) for name in names]


def _summary(name: str, facts: dict, rounds: list[dict], base: list[dict]) -> dict[str, Any]:
    summary: dict[str, Any] = {"name": name, **facts, "peak_mib": rounds[-1]["predict"]["peak_mib"]}
    for what in ("train", "predict"):
        rates = [one[what]["images_per_second"] for one in rounds]
        ratios = [b[what]["images_per_second"] / rate for b, rate in zip(base, rates, strict=True)]
        summary[what] = {"median": statistics.median(rates), "all": rates, "ratio": statistics.median(ratios)}
    return summary


def table(summaries: list[dict[str, Any]]) -> str:
    """Format summaries as Markdown."""
    lines = [
        "| contender | training images/s | ours / it | inference images/s | ours / it | first call s | peak MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in summaries:
        cells = [one["name"]]
        for what in ("train", "predict"):
            rates = one[what]["all"]
            cells += [f"{one[what]['median']:.1f} ({min(rates):.1f}–{max(rates):.1f})", f"{one[what]['ratio']:.2f}"]
        lines.append(f"| {' | '.join(cells)} | {one['first_train_seconds']:.1f} | {one['peak_mib']:.0f} |")
    return "\n".join(lines)


def describe_limit(sizes: dict[str, Any], rates: dict[str, float], flops: float) -> str:
    """Describe the executed multiply-adds of our network as a share of the machine's speed of matrix products.

    rates are images/s. Training counts as three forward passes, as the gradient takes two products for each one.
    """
    config, shape = our_config(sizes), (sizes["side"], sizes["side"], CHANNELS)
    forward = 2e6 * Footprint(build_model(config.model, sizes["classes"]), shape).mmac_executed
    shares = {"training": 3 * forward * rates["train"] / flops, "inference": forward * rates["predict"] / flops}
    text = ", ".join(f"{share:.0%} of it in {what}" for what, share in shares.items())
    return f"float32 products of 2048 × 2048 through JAX: {flops / 1e9:.0f} GFLOP/s; ours needs {text}"


def main() -> None:
    """Parse the command line, measure, print the table and write JSON."""
    parser = cli.Parser("python -m benchmarks.throughput", __doc__)
    parser.add_argument("--attention", choices=("external", "self"), default="external")
    parser.add_argument("--augmented", action="store_true", help="with the Keras example's augmentation")
    parser.add_argument("--contenders", default="", help=f"some of {'; '.join(CONTENDERS)}, with ; between")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2, help="batches of a repetition (default: 2)")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--toy", action="store_true", help="a tiny network, to try the benchmark itself")
    parser.add_argument("--out", default="", help="JSON file (default: runs/throughput-….json)")
    arguments = parser.parse_args()
    names = arguments.contenders.split(";") if arguments.contenders else list(_DEFAULT)
    for name in names:
        if name not in CONTENDERS:
            parser.error(f"--contenders: {name!r}; accepted: {'; '.join(CONTENDERS)}")
    installed = [name for name in names if importlib.util.find_spec(CONTENDERS[name][0])]
    chosen = [name for name in installed if CONTENDERS[name][3] or not arguments.augmented]
    sizes = dataclasses.asdict(Sizes(attention=arguments.attention, **(TOY if arguments.toy else {})))
    settings = {"sizes": sizes, "batch": arguments.batch, "steps": arguments.steps, "augmented": arguments.augmented}
    flops = product_flops()
    summaries = measure(chosen, settings, arguments.repetitions)
    left_out = [name for name in names if name not in chosen]
    arms = f"{arguments.attention}{'-augmented' if arguments.augmented else ''}{'-toy' if arguments.toy else ''}"
    facts = {"settings": settings, "product_flops": flops, "summaries": summaries}
    out = write_json(arguments.out or f"runs/throughput-{arms}.json", facts)
    repetitions, batches = counted(arguments.repetitions, "repetition"), counted(arguments.steps, "batch")
    print(f"\n{table(summaries)}\n\nMedian (range) of {repetitions} of {batches}.")
    print(f"{machine()}, {summaries[0]['parameters']:,} parameters, batch {arguments.batch}")
    if summaries[0]["name"] == "ours":
        print(describe_limit(sizes, {what: summaries[0][what]["median"] for what in ("train", "predict")}, flops))
    if left_out:
        print(f"Left out, not installed or without the Keras example's augmentation: {'; '.join(left_out)}")
    print(out)


if __name__ == "__main__":
    sys.exit(cli.run(main))
