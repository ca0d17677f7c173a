"""One contender of benchmarks.throughput, in a process of its own: trains or predicts when told to on stdin.

python -m benchmarks.contender NAME JSON. Prints a line of JSON when it is ready, and one for every line `train` or
`predict` that it reads.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

LEARNING_RATE, WEIGHT_DECAY, SMOOTHING = 1e-3, 1e-4, 0.1  # the Keras example's

Work = Callable[[], None]
Made = tuple[int, Work, Work]  # parameters, train `steps` batches, predict as many


def our_config(sizes: dict) -> Any:
    """Return the configuration of this project that has the sizes of benchmarks.sizes."""
    from configs import default

    config = default.get_config()
    fields = {"attention": "attention", "patch_size": "patch", "dim": "width", "mlp_dim": "hidden", "depth": "depth"}
    fields |= {"num_heads": "heads", "head_dim": "width", "dim_coefficient": "coefficient"}
    fields |= {f"{place}_dropout": "dropout" for place in ("attention", "projection", "mlp")}
    config.model.update({ours: sizes[theirs] for ours, theirs in fields.items()})
    if sizes["attention"] == "self":
        config.model.projection_dropout = 0.0
    return config


def _ours(
    sizes: dict, images: np.ndarray, labels: np.ndarray, batch: int, augmented: bool, seeds: int, at_once: int
) -> Made:
    from eanet.data import datasets as data
    from eanet.model.vision_transformer import count_parameters
    from eanet.training import sharding
    from eanet.training.trainer import Trainer

    config = our_config(sizes)
    config.train.batch_size = batch
    config.num_seeds, config.seeds_per_call = seeds, at_once
    if not augmented:
        config.augment.update({"flip": False, "rotation": 0.0, "contrast": 0.0, "zoom": 0.0})
    split = data.Split(images, labels)
    names = tuple(map(str, range(sizes["classes"])))
    dataset = data.Dataset(split, split, split, (127.5,) * 3, (64.0,) * 3, names)
    trainer = Trainer(config, dataset, sharding.make_mesh(seeds))
    arrays = trainer.put(split)
    state, compiled = [trainer.init()], []

    def train() -> None:
        if not compiled:  # in the first call, as the others do
            compiled.append(trainer.compile_training(*arrays))
        state[0], *_ = trainer.train(state[0], *arrays, len(images) // batch)

    def predict() -> None:
        trainer.evaluate(state[0].params, *arrays)

    return count_parameters(state[0].params) // seeds, train, predict


def _keras(sizes: dict, images: np.ndarray, labels: np.ndarray, batch: int, augmented: bool) -> Made:
    import keras

    from benchmarks.peers.keras_model import build
    from benchmarks.sizes import Sizes

    model = build(Sizes(**sizes), adapt_to=images[:batch].astype(np.float32), augmented=augmented)
    model.compile(
        optimizer=keras.optimizers.AdamW(LEARNING_RATE, WEIGHT_DECAY),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=SMOOTHING),
        metrics=[keras.metrics.CategoricalAccuracy(), keras.metrics.TopKCategoricalAccuracy(5)],
    )
    x, y = images.astype(np.float32), keras.utils.to_categorical(labels, sizes["classes"])

    def train() -> None:
        model.fit(x, y, batch_size=batch, epochs=1, verbose=0)

    def predict() -> None:
        model.predict(x, batch_size=batch, verbose=0)

    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables), train, predict


def _torch(sizes: dict, images: np.ndarray, labels: np.ndarray, batch: int, compiled: bool) -> Made:
    import torch

    from benchmarks.peers.torch_model import VisionTransformer
    from benchmarks.sizes import Sizes

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = VisionTransformer(Sizes(**sizes)).to(device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    x = torch.from_numpy((images.astype(np.float32) - 127.5) / 64).to(device)
    y = torch.from_numpy(labels.astype(np.int64)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    run = torch.compile(model) if compiled else model

    def train() -> None:
        model.train()
        for start in range(0, len(x), batch):
            logits = run(x[start : start + batch])
            loss = torch.nn.functional.cross_entropy(logits, y[start : start + batch], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()

    def predict() -> None:
        model.eval()
        with torch.inference_mode():
            for start in range(0, len(x), batch):
                out = run(x[start : start + batch])
            out.sum().item()

    return parameters, train, predict


def main() -> None:
    """Make the contender, warm it up, and serve."""
    name, settings = sys.argv[1], json.loads(sys.argv[2])
    sizes, batch, augmented = settings["sizes"], settings["batch"], settings["augmented"]
    generator = np.random.default_rng(0)
    shape = (settings["steps"] * batch, sizes["side"], sizes["side"], 3)
    images = generator.integers(0, 256, shape, np.uint8)
    labels = generator.integers(0, sizes["classes"], len(images), np.int32)
    if name == "ours":
        parameters, train, predict = _ours(
            sizes, images, labels, batch, augmented, settings.get("seeds", 1), settings.get("at_once", 0)
        )
    elif name.startswith("keras"):
        parameters, train, predict = _keras(sizes, images, labels, batch, augmented)
    else:
        parameters, train, predict = _torch(sizes, images, labels, batch, name == "torch.compile")
    first = {"parameters": parameters}
    for what, work in (("train", train), ("predict", predict)):
        started = time.perf_counter()
        work()
        first[f"first_{what}_seconds"] = time.perf_counter() - started
        work()  # the second call may still compile something
    print(json.dumps(first), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        {"train": train, "predict": predict}[line.strip()]()
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"images_per_second": len(images) / seconds, "peak_mib": peak}), flush=True)


if __name__ == "__main__":
    main()
