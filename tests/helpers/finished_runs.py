"""Finished runs that nobody trained: a run's files, made from the real configurations and chosen numbers."""

import hashlib
import importlib
import json
import os

import numpy as np

from eanet.compare import comparison, finished_run
from eanet.config import rules, stored
from eanet.run.record import Record

COSTS = {"external": (361_380, 100.925_44), "self": (623_268, 419.561_472), "none": (100_644, 50.0)}
IMAGES = 400  # of the synthetic test split
CLASSES = 10
ARMS = {  # test accuracies by seed; the last arm shares none with the others
    "eanet": {0: 0.42, 1: 0.44, 2: 0.43},
    "vit": {0: 0.35, 1: 0.3525, 2: 0.36},
    "none": {10: 0.31, 11: 0.3, 12: 0.3025, 13: 0.305},
}
_HEADS = {2: (0.42, 0.44, 0.4225), 4: (0.09, 0.12, 0.0925), 16: (0.45, 0.47, 0.4625)}


def make_config(arm="eanet", **overrides):
    """Return configs/<arm>.py with three epochs; overrides are fields with __ for the dot, model__num_heads=8."""
    config = importlib.import_module(f"configs.{arm}").get_config()
    for name, value in ({"train__epochs": 3, "wandb__mode": "disabled"} | overrides).items():
        *path, leaf = name.split("__")
        node = config
        for part in path:
            node = node[part]
        node[leaf] = value
    rules.validate(config)
    return config


def answers(accuracy, seed, images=IMAGES):
    """Return bool [images] with exactly the nearest share of True; which they are follows from the seed."""
    order = np.random.default_rng(seed).permutation(images)
    return order < round(accuracy * images)


def write_run(workdir, config, correct, class_names=None, results=None, rows=None, environment=None):
    """Write a finished run whose network is right on the test images that `correct` marks.

    results and environment replace entries of the files, rows all rows of metrics.jsonl; class_names default to
    "class 0", "class 1" and so on. Timings follow from the directory's name, everything else from the arguments.
    """
    record = Record(workdir)
    fields = config.to_dict()
    record.workdir.mkdir(parents=True)
    record.write("config.json", fields)
    record.write("environment.json", _environment(record.workdir, fields) | (environment or {}))
    for row in _rows(fields, np.mean(correct)) if rows is None else rows:
        record.append(row)
    class_names = np.array([f"class {i}" for i in range(CLASSES)] if class_names is None else class_names)
    record.write_predictions(**_predictions(correct, class_names))
    record.write("results.json", _results(record, fields, correct) | (results or {}))
    return record.workdir


def write_arm(root, arm, accuracies, **overrides):
    """Write a run per seed; accuracies map seeds to test accuracies. Returns the directories."""
    made = []
    for seed, accuracy in accuracies.items():
        config = make_config(arm, seed=seed, **overrides)
        name = f"{arm}-{stored.fingerprint(config.to_dict())}"
        made.append(write_run(root / name, config, answers(accuracy, list(name.encode()))))
    return made


def write_arms(root):
    """Write the runs of ARMS; gives root."""
    for arm, accuracies in ARMS.items():
        write_arm(root, arm, accuracies)
    return root


def write_ablation(root):
    """Write external attention with 2, 4 and 16 heads and three seeds, and one run of self-attention, given back."""
    for heads, accuracies in _HEADS.items():
        write_arm(root, "eanet", dict(enumerate(accuracies)), model__num_heads=heads)
    return write_arm(root, "vit", {0: 0.4}, model__num_heads=4)


def read_comparison(root, by=(), baseline=""):
    """Compare the runs under a directory as the command does."""
    runs, notes = finished_run.find_runs([root])
    return comparison.compare(runs, by, baseline, notes)


def change_json(path, **entries):
    """Replace entries of a JSON file; None takes one out."""
    changed = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))


def _predictions(correct, class_names):
    labels = np.arange(len(correct), dtype=np.int32) % len(class_names)
    return {
        "predicted": np.where(correct, labels, (labels + 1) % len(class_names)).astype(np.int32),
        "label": labels,
        "loss": np.where(correct, 0.5, 2.5).astype(np.float32),
        "accuracy": correct.astype(np.float32),
        "top5_accuracy": np.ones(len(correct), np.float32),
        "class_name": class_names,
    }


def _rows(fields, accuracy):
    """Return two rows an epoch, the second with the validation; accuracies grow to 1.1 and 0.9 of the test's."""
    epochs = fields["train"]["epochs"]
    made = []
    for i in range(2 * epochs):
        share = (i + 1) / (2 * epochs)
        row = {"step": 5 * (i + 1), "epoch": (i + 1) / 2}
        row |= {"train/loss": 3 - 2 * share, "train/accuracy": 0.9 * accuracy * share, "train/top5_accuracy": share}
        row |= {"train/learning_rate": 1e-3, "train/grad_norm": 1.0, "train/images_per_second": 1000.0}
        if i % 2:
            row |= {"val/loss": 3 - 2 * share * accuracy, "val/accuracy": 1.1 * accuracy * share}
            row |= {
                "val/top5_accuracy": share,
                "val/accuracy_best": row["val/accuracy"],
                "val/epoch_best": (i + 1) // 2,
            }
        made.append(row)
    return made


def _results(record, fields, correct):
    parameters, mmac = COSTS[fields["model"]["attention"]]
    predictions, last = record.read_predictions(), record.rows()[-1]
    noise = int(hashlib.sha256(os.fsencode(record.workdir.name)).hexdigest()[:4], 16) / 65536
    results = {
        f"test/{name}": float(np.mean(predictions[name], dtype=float)) for name in ("loss", "accuracy", "top5_accuracy")
    }
    results |= {name: value for name, value in last.items() if name.startswith("val/")}
    return results | {
        "epochs": fields["train"]["epochs"],
        "steps": last["step"],
        "parameters": parameters,
        "mmac": mmac,
        "activation_mib": 1.5,
        "seconds_compile": 10.0,
        "seconds_train": 60.0 + noise,
        "seconds_evaluate": 2.0,
        "images_per_second": 1000.0 + 100 * noise,
        "images_per_second_inference": 4000.0 + 100 * noise,
    }


def _environment(workdir, fields):
    versions = {"jax": "0.10.2", "jaxlib": "0.10.2", "flax": "0.12.8", "optax": "0.2.8", "orbax-checkpoint": "0.12.8"}
    return {
        "started": f"2026-01-01T00:00:{fields['seed'] % 60:02}+00:00",
        "command": f"python main.py --config=configs/eanet.py --config.seed={fields['seed']} --workdir={workdir.name}",
        "python": "3.12.1",
        "platform": "Linux-6.1-x86_64",
        "versions": versions | {"numpy": "2.4.6", "tensorflow-datasets": "4.9.10", "wandb": None},
        "backend": "cpu",
        "devices": ["cpu"],
        "processes": 1,
        "cpus": 2,
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "clean": True},
        "chosen": {"microbatch": 64, "evaluation_batch": 64, "networks_at_once": 1},
        "earlier_starts": [],
    }
