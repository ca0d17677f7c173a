"""Run the Keras example's published results and this project's own arms, and tabulate them.

    python -m benchmarks.reproduce [--data-dir=DIR] [--arms=…] [--seeds=0,1,2] [--reduced] [--out=DIR]

Every run is one `python main.py` in DIR/<arm>-s<seed>; the same command skips finished runs and goes on with
interrupted ones. It writes table.md, table.json and curves.png to DIR. `--reduced` is for a machine without an
accelerator: 20,000 training images and 3 epochs of the Keras 3 arm with and without its clip, one seed.
"""

import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

# Arm: its configuration and overrides, and the published test top-1 and top-5 in percent where there is one.
ARMS: dict[str, tuple[list[str], tuple[float, float] | None]] = {
    "keras2021": (["--config=configs/reproduction.py:keras2021"], (43.91, 74.71)),
    "keras3": (["--config=configs/reproduction.py:keras3"], (17.26, 38.94)),
    "keras3-without-clip": (
        ["--config=configs/reproduction.py:keras3", "--config.augment.contrast_clip=False"],
        None,
    ),
    "vit2021": (["--config=configs/reproduction.py:vit2021"], None),
    "vit3": (["--config=configs/reproduction.py:vit3"], None),
    "eanet": (["--config=configs/eanet.py"], None),
    "vit": (["--config=configs/vit.py"], None),
}
REDUCED_ARMS = ("keras3", "keras3-without-clip")
REDUCED = ["--config.data.train_limit=20000", "--config.train.epochs=3"]


def run_arm(arm: str, seed: int, out: pathlib.Path, extra: list[str]) -> pathlib.Path:
    """Train one arm with one seed, or go on with it; returns its directory. Raises SystemExit where it fails."""
    workdir = out / f"{arm}-s{seed}"
    flags = [*ARMS[arm][0], f"--config.seed={seed}", "--config.wandb.mode=disabled", *extra, f"--workdir={workdir}"]
    print(f"== {arm}, seed {seed}", flush=True)
    done = subprocess.run([sys.executable, "main.py", *flags])
    if done.returncode:
        print(f"{arm}, seed {seed} ended with exit code {done.returncode}; the same command goes on from there")
        raise SystemExit(done.returncode)
    return workdir


def summarize(arm: str, workdirs: list[pathlib.Path]) -> dict[str, Any]:
    """Gather the results of an arm's seeds: mean and sample deviation (None for a single seed)."""
    results = [json.loads((workdir / "results.json").read_text()) for workdir in workdirs]
    environment = json.loads((workdirs[0] / "environment.json").read_text())
    summary: dict[str, Any] = {"arm": arm, "n": len(results), "epochs": results[0]["epochs"]}
    for metric in ("test/accuracy", "test/top5_accuracy", "test/loss", "val/loss", "seconds_train"):
        values = [result[metric] for result in results]
        summary[metric] = statistics.fmean(values)
        summary[f"{metric}_deviation"] = statistics.stdev(values) if len(values) > 1 else None
    summary |= {"device": f"{environment['devices'][0]} × {len(environment['devices'])}", "published": ARMS[arm][1]}
    return summary


def table(summaries: list[dict[str, Any]]) -> str:
    """Format the summaries as a Markdown table."""

    def value(summary: dict[str, Any], metric: str, scale: float = 1.0) -> str:
        deviation = summary[f"{metric}_deviation"]
        return f"{scale * summary[metric]:.2f}" + ("" if deviation is None else f" ± {scale * deviation:.2f}")

    lines = [
        "| arm | n | epochs | test top-1 % | test top-5 % | test loss | published | training s | device |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | --- |",
    ]
    for summary in summaries:
        published = summary["published"]
        cells = [
            *(summary["arm"], str(summary["n"]), str(summary["epochs"])),
            *(value(summary, "test/accuracy", 100), value(summary, "test/top5_accuracy", 100)),
            *(value(summary, "test/loss"), f"{published[0]} / {published[1]}" if published else "none"),
            *(f"{summary['seconds_train']:.0f}", summary["device"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(runs: dict[str, list[pathlib.Path]], path: pathlib.Path) -> None:
    """Draw training and validation loss of every arm, a line a seed, beside the loss of no answer."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    for color, (arm, workdirs) in zip(plt.cm.tab10.colors, runs.items(), strict=False):
        for i, workdir in enumerate(workdirs):
            rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
            rows = [row for row in rows if "val/loss" in row]
            for axis, split in zip(axes, ("train", "val"), strict=True):
                losses = [row[f"{split}/loss"] for row in rows]
                axis.plot([row["epoch"] for row in rows], losses, ".-", color=color, label=arm if i == 0 else None)
    for axis, title in zip(axes, ("training", "validation"), strict=True):
        axis.axhline(math.log(100), color="gray", linestyle="--", linewidth=1, label="ln(100): no answer")
        axis.set(title=f"{title} loss", xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("loss (nats, label smoothing 0.1)")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Parse the command line, run what is missing, and write the table and the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproduce", description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--data-dir", default="", help="TFDS directory (default: TFDS's own)")
    parser.add_argument("--arms", default="", help=f"some of {','.join(ARMS)} (default: all; reduced: the A/B)")
    parser.add_argument("--seeds", default="", help="default: 0,1,2; reduced: 0")
    parser.add_argument("--reduced", action="store_true", help="20,000 images, 3 epochs, for a CPU")
    parser.add_argument("--out", default="", help="default: runs/reproduction or runs/reproduction-reduced")
    arguments, extra = parser.parse_known_args()  # what is left goes to main.py, --config.train.epochs=1 say
    reduced = arguments.reduced
    arms = arguments.arms.split(",") if arguments.arms else list(REDUCED_ARMS if reduced else ARMS)
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown:
        parser.error(f"--arms: {unknown[0]!r}; accepted: {', '.join(ARMS)}")
    seeds = [int(seed) for seed in (arguments.seeds or ("0" if reduced else "0,1,2")).split(",")]
    out = pathlib.Path(arguments.out or ("runs/reproduction-reduced" if reduced else "runs/reproduction"))
    data = [f"--config.data.dir={arguments.data_dir}"] if arguments.data_dir else []
    flags = [*data, *(REDUCED if reduced else []), *extra]

    runs = {arm: [run_arm(arm, seed, out, flags) for seed in seeds] for arm in arms}
    summaries = [summarize(arm, workdirs) for arm, workdirs in runs.items()]
    (out / "table.json").write_text(json.dumps(summaries, indent=2) + "\n")
    (out / "table.md").write_text(table(summaries))
    draw(runs, out / "curves.png")
    print(f"\n{table(summaries)}\n{out / 'table.md'}, {out / 'curves.png'}")


if __name__ == "__main__":
    main()
