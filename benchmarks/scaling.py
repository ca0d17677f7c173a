"""Time and memory of attention against the number of tokens: python -m benchmarks.scaling [--tokens=64,256,…].

One layer of each kind at the Keras example's width (64 channels, 4 heads), one image: external attention,
self-attention as this project computes it, and self-attention through jax.nn.dot_product_attention; forward alone,
and with the gradient.
Slopes of time against tokens are fitted in logarithms over the larger half of the token counts: 1 is linear, 2 is
quadratic. What would not fit into the memory is not run; its memory is known from the compiled program all the same.
"""

import functools
import math
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from rich.progress import track

from benchmarks.measurement import counted, machine, write_json
from eanet import cli
from eanet.attention.external import ExternalAttention
from eanet.attention.self_attention import SelfAttention
from eanet.model import footprint

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

CHANNELS, HEADS = 64, 4
PASSES = ("forward", "gradient")
_STYLES = {"external": ("C0", "o"), "self": ("C1", "s"), "self, jax.nn": ("C2", "^"), "self, cuDNN": ("C3", "v")}


def dot_product_attention(variables: dict, x_BND: jax.Array, implementation: str | None = None) -> jax.Array:
    """Compute SelfAttention's function on its own parameters through jax.nn.dot_product_attention."""
    params = jax.tree.map(lambda p: p.astype(x_BND.dtype), variables["params"])
    heads = {
        name: jnp.einsum("BND,DHK->BNHK", x_BND, params[name]["kernel"]) + params[name]["bias"][None, None]
        for name in ("query", "key", "value")
    }
    out_BNHK = jax.nn.dot_product_attention(*heads.values(), implementation=implementation)
    return jnp.einsum("BNHK,HKD->BND", out_BNHK, params["out"]["kernel"]) + params["out"]["bias"][None, None]


def layers(dtype: Any) -> dict[str, tuple[Any, Callable]]:
    """Return each kind of attention as its parameters and a function of parameters and tokens."""
    x = jnp.zeros((1, 4, CHANNELS), dtype)
    external = ExternalAttention(num_heads=HEADS, dtype=dtype)
    own = SelfAttention(num_heads=HEADS, head_dim=CHANNELS, dtype=dtype)
    params = {name: module.init(jax.random.key(0), x) for name, module in (("external", external), ("self", own))}
    found = {"external": (params["external"], external.apply), "self": (params["self"], own.apply)}
    found["self, jax.nn"] = (params["self"], dot_product_attention)
    if jax.default_backend() == "gpu" and dtype == jnp.bfloat16:  # cuDNN has no float32
        found["self, cuDNN"] = (params["self"], functools.partial(dot_product_attention, implementation="cudnn"))
    return found


def compile_layer(variables: Any, function: Callable, tokens: int, dtype: Any, what: str) -> tuple[Any, tuple]:
    """Compile one pass of a layer; gives the program and its arguments."""
    x = jax.random.normal(jax.random.key(1), (1, tokens, CHANNELS), dtype)

    def loss(variables: Any, x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(function(variables, x).astype(jnp.float32)))

    called = function if what == "forward" else jax.grad(loss, argnums=(0, 1))
    return jax.jit(called).lower(variables, x).compile(), (variables, x)


def time_all(programs: dict[str, tuple[Any, tuple]], repetitions: int, at_least: float) -> dict[str, list[float]]:
    """Return seconds a call, a value a repetition; the repetitions go round the programs."""
    counts = {}
    for name, (program, arguments) in programs.items():
        jax.block_until_ready(program(*arguments))
        started = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        counts[name] = max(1, math.ceil(at_least / (time.perf_counter() - started)))
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repetitions):
        for name, (program, arguments) in programs.items():
            if counts[name] > 1:  # what ran before, perhaps gigabytes of it, has emptied the caches
                jax.block_until_ready(program(*arguments))
            started = time.perf_counter()
            for _ in range(counts[name]):
                out = program(*arguments)
            jax.block_until_ready(out)
            seconds[name].append((time.perf_counter() - started) / counts[name])
    return seconds


def temporary_bytes(program: Any, layer: str, tokens: int) -> int:
    """Return the temporary memory of a compiled layer: XLA's plan and, if that leaves it out, the attention map.

    From about 1,024 tokens on, XLA's CPU library computes self-attention's forward pass as one operation, and holds the
    whole float32 map in memory of its own that the plan does not count. A test sees it in the process's memory.
    """
    planned = footprint.temporary_bytes(program)
    holds_map = jax.default_backend() == "cpu" and layer != "external"
    return max(planned, 4 * HEADS * tokens**2) if holds_map else planned


def measure(tokens: list[int], dtype: Any, repetitions: int, at_least: float, limit: float) -> list[dict[str, Any]]:
    """Measure every layer, pass and number of tokens; seconds is empty where the memory would exceed `limit` bytes."""
    rows = []
    for count in track(tokens, "measuring"):
        for what in PASSES:
            made = {
                name: compile_layer(variables, function, count, dtype, what)
                for name, (variables, function) in layers(dtype).items()
            }
            sizes = {name: temporary_bytes(program, name, count) for name, (program, _) in made.items()}
            fitting = {name: pair for name, pair in made.items() if sizes[name] <= limit}
            seconds = time_all(fitting, repetitions, at_least)
            rows += [
                {"layer": name, "pass": what, "tokens": count, "seconds": seconds.get(name, []), "bytes": sizes[name]}
                for name in made
            ]
    return rows


def curve(rows: list[dict[str, Any]], layer: str, what: str, value: str) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens and median seconds, or bytes, of one line of the picture."""
    mine = [row for row in rows if row["layer"] == layer and row["pass"] == what and (value == "bytes" or row[value])]
    ys = [row["bytes"] if value == "bytes" else statistics.median(row["seconds"]) for row in mine]
    return np.array([row["tokens"] for row in mine], float), np.array(ys, float)


def slope(xs: np.ndarray, ys: np.ndarray) -> float:
    """Fit the exponent of y ~ x^slope to the larger half of the xs; NaN where there are not two."""
    half = len(xs) // 2
    return float(np.polyfit(np.log(xs[half:]), np.log(ys[half:]), 1)[0]) if len(xs) - half > 1 else math.nan


def crossing(rows: list[dict[str, Any]], layer: str, what: str) -> float:
    """Return the number of tokens beyond which external attention stays faster, interpolated on logarithmic scales.

    NaN if it is slower at the largest number of tokens, 0 if it is never slower.
    """
    xs, ours = curve(rows, "external", what, "seconds")
    _, theirs = curve(rows, layer, what, "seconds")
    gap = np.log(ours[: len(theirs)]) - np.log(theirs)
    slower = np.flatnonzero(gap > 0)
    if not len(slower):
        return 0.0
    i = slower[-1]
    if i == len(gap) - 1:
        return math.nan
    share = gap[i] / (gap[i] - gap[i + 1])
    return float(np.exp(np.log(xs[i]) + share * (np.log(xs[i + 1]) - np.log(xs[i]))))


def table(rows: list[dict[str, Any]]) -> str:
    """Format measurements as Markdown: milliseconds and MiB by tokens, then the slopes and crossings."""
    names = list(dict.fromkeys(row["layer"] for row in rows))
    columns = [(name, what) for what in PASSES for name in names]
    lines = [f"| tokens | {' | '.join(f'{name}, {what}: ms (MiB)' for name, what in columns)} |"]
    lines.append("| ---: |" + " ---: |" * len(columns))
    found = {(row["layer"], row["pass"], row["tokens"]): row for row in rows}
    for tokens in dict.fromkeys(row["tokens"] for row in rows):
        cells = []
        for column in columns:
            row = found[(*column, tokens)]
            time_ = f"{1e3 * statistics.median(row['seconds']):.3g}" if row["seconds"] else "not run"
            cells.append(f"{time_} ({row['bytes'] / 2**20:.3g})")
        lines.append(f"| {tokens:,} | {' | '.join(cells)} |")
    for title, value in (("slope of time", "seconds"), ("slope of memory", "bytes")):
        lines.append(f"| {title} | {' | '.join(f'{slope(*curve(rows, *column, value)):.2f}' for column in columns)} |")
    crossings = ["–" if name == "external" else _said(crossing(rows, name, what)) for name, what in columns]
    return "\n".join([*lines, f"| external is faster from | {' | '.join(crossings)} |"])


def _said(tokens: float) -> str:
    if math.isnan(tokens):
        return "nowhere here"
    return f"{tokens:,.0f} tokens" if tokens else "the first"


def draw(rows: list[dict[str, Any]], path: pathlib.Path, title: str) -> None:
    """Draw time and memory against tokens, both axes logarithmic, with the fitted slopes in the legend."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    figure.suptitle(title)
    for axis, value, unit in ((axes[0], "seconds", 1e3), (axes[1], "bytes", 2**-20)):
        for name in dict.fromkeys(row["layer"] for row in rows):
            for what, line in zip(PASSES, ("--", "-"), strict=True):
                xs, ys = curve(rows, name, what, value)
                if not len(xs):
                    continue
                color, marker = _STYLES[name]
                label = f"{name}, {what}: slope {slope(xs, ys):.2f}"
                size = 8 if name == "self" else 4  # seen behind the other self-attention, which lies on it
                axis.plot(xs, ys * unit, line, color=color, marker=marker, markersize=size, label=label)
        axis.set(xscale="log", yscale="log", xlabel="tokens")
        tokens = list(dict.fromkeys(row["tokens"] for row in rows))
        axis.set_xticks(tokens, [f"{count:,}" for count in tokens])
        axis.tick_params(axis="x", rotation=45)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    axes[0].set(ylabel="milliseconds a call", title="Time")
    axes[1].set(ylabel="MiB", title="Temporary memory")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Parse the command line, measure, print the table, draw the picture and write JSON."""
    parser = cli.Parser("python -m benchmarks.scaling", __doc__)
    powers = ",".join(str(2**power) for power in range(6, 15))
    parser.add_argument("--tokens", default=powers, help=f"default: {powers}")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="of a repetition, at least (default: 0.2)")
    parser.add_argument("--gib", type=float, default=8.0, help="temporary memory that may be used (default: 8)")
    parser.add_argument(
        "--out", default="runs/scaling", help="PNG and JSON, without the ending (default: runs/scaling)"
    )
    arguments = parser.parse_args()
    if not all(count.isdigit() and int(count) for count in arguments.tokens.split(",")):
        parser.error(f"--tokens: {arguments.tokens!r}; accepted: whole numbers above 0, with commas between")
    tokens = sorted(map(int, arguments.tokens.split(",")))
    dtype = jnp.dtype(arguments.dtype)
    rows = measure(tokens, dtype, arguments.repetitions, arguments.seconds, arguments.gib * 2**30)
    out = pathlib.Path(arguments.out)
    device = jax.devices()[0].device_kind
    facts = {"device": device, "dtype": arguments.dtype, "repetitions": arguments.repetitions, "rows": rows}
    write_json(out.with_suffix(".json"), facts)
    draw(rows, out.with_suffix(".png"), f"One layer, {CHANNELS} channels, {arguments.dtype}, {device} ({machine()})")
    print(f"\n{table(rows)}\n\nMedian of {counted(arguments.repetitions, 'repetition')}; {device}; {machine()}")
    print(f"{out.with_suffix('.png')} and {out.with_suffix('.json')}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
