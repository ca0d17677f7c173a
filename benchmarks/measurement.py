"""What the benchmarks share: the machine's name, data to compute with, and the file of the results."""

import json
import os
import pathlib
import platform
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eanet.data import datasets as data

CLASSES = 100


def machine() -> str:
    """Name the machine; the accelerator is named by whoever has it."""
    return f"{os.cpu_count()} × {platform.processor() or platform.machine()}, {platform.system()}"


def product_flops() -> float:
    """Return the floating point operations a second of JAX's product of two large float32 matrices, median of 10."""
    side, seconds = 2048, []
    matrix = jnp.ones((side, side))
    product = jax.jit(jnp.dot).lower(matrix, matrix).compile()
    for _ in range(10):
        started = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / statistics.median(seconds)


def counted(number: int, what: str) -> str:
    """Return a number of things in words: 1 repetition, 5 repetitions, 2 batches."""
    plural = f"{what}es" if what.endswith("ch") else f"{what}s"
    return f"{number} {what if number == 1 else plural}"


def random_dataset(examples: int) -> data.Dataset:
    """Return random images of CIFAR-100's shape, the same in all three splits."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (examples, 32, 32, 3), np.uint8)
    split = data.Split(images, generator.integers(0, CLASSES, examples, np.int32))
    return data.Dataset(split, split, split, (127.5,) * 3, (64.0,) * 3, tuple(map(str, range(CLASSES))))


def write_json(path: str | pathlib.Path, facts: dict[str, Any]) -> pathlib.Path:
    """Write results, with the machine's name beside them."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine()} | facts, indent=2) + "\n")
    return path
