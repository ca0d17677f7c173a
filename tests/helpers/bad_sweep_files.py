"""What is wrong with sweep files, and what the line that refuses them must hold."""

from helpers.commands import ROOT

DIGITS = f"--config={ROOT}/configs/digits.py"
_A = "accepted: "

GRID = {"program": f"{ROOT}/main.py", "method": "grid", "parameters": {"config.seed": {"values": [0, 1]}}}
GRID["command"] = ["${env}", "${interpreter}", "${program}", DIGITS, "--config.wandb.mode=disabled", "${args}"]


def _values(*values, **rest):
    return {"parameters": {"config.seed": {"values": list(values)}}} | rest


# Changes of a sweep file that is right; or bytes, the whole of another one.
SWEEP_FILES = [
    ({"wather": 1}, ["'wather': no such key", _A]),
    ({"method": "evolution"}, ["method='evolution'", _A]),
    ({"program": "nothing.py"}, ["program='nothing.py'", _A]),
    ({"program": "x" * 5000}, ["program='xxx", _A]),
    ({"run_cap": 10**12}, ["run_cap=1000000000000", _A]),
    ({"method": "random", "run_cap": 10**6}, ["run_cap=1000000", _A]),
    (_values(0, "a\0b"), ["parameters.config.seed", "texts in one line"]),
    (_values(0, "two\nlines"), ["parameters.config.seed", "texts in one line"]),
    (_values(0, -1), ["config.seed=-1", _A]),
    (_values(0, 2**32), ["config.seed=4294967296", _A]),
    (_values(0, 0.5), ["config.seed=0.5", _A]),
    (
        {"parameters": {"config.seed": {"values": [*range(200)]}, "config.num_seeds": {"values": [*range(1, 101)]}}},
        ["parameters: a grid of 20,000 points", "accepted: at most 10000"],
    ),
    (_values(0, 1, method="random", run_cap=2, metric={"name": 3}), ["metric=", _A]),
    ({"parameters": {"config.seeds": {"value": 0}}}, ["config.seeds: no such field; did you mean config.num_seeds?"]),
    ({"parameters": {f"config.model.dim{i}": {"values": [*range(10)]} for i in range(9)}}, ["grid of 1,000,000,000"]),
    (
        {"parameters": {"config.vary.learning_rate": {"value": "(x,)"}}},
        ["config.vary.learning_rate=", "a tuple of"],
    ),
    ({"parameters": {"config.augment.zoom": {"values": [0, 0.0]}}}, ["2 points", "different runs", "there are 1"]),
    ({"parameters": {"config.model.num_heads": {"values": [3]}}}, ["config.model.num_heads=3", "config.model.dim=32"]),
    ({"parameters": {"config.optimizer.learning_rate": {"value": float("nan")}}}, ["learning_rate=nan", _A]),
    (
        {"method": "random", "run_cap": 2, "parameters": {"config.seed": {"min": 0, "max": 10**400}}},
        ["parameters.config.seed: max=1000", "not a finite number"],
    ),
    (
        {
            "method": "random",
            "run_cap": 2,
            "parameters": {"config.seed": {"values": [0, 1], "probabilities": [float("nan"), 1.0]}},
        },
        ["parameters.config.seed: probabilities=[nan, 1.0]", _A],
    ),
    (b"- a\n- b\n", ["holds list", "accepted: a mapping"]),
    (b"just text", ["holds str", "accepted: a mapping"]),
    (b"\x00\x01\xff\xfe", ["sweep.yaml", "cannot be read"]),
    (b"a: [1, 2", ["sweep.yaml", "not plain YAML: while parsing a flow sequence in"]),
    (b"run: !!python/object/new:subprocess.Popen [[touch, traces]]", ["not plain YAML", "python/object/new"]),
    (b"run: !secret 3", ["not plain YAML", "!secret"]),
    (b"x: " + b"[" * 700, ["not plain YAML"]),
    (b"#" * 2_000_000, ["bytes", "accepted: a sweep file of at most"]),
    (
        "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))]).encode()
        + f"\nparameters: {{config.seed: {{values: *a8}}}}\nmethod: *a8\nprogram: {ROOT}/main.py".encode(),
        ["'a0': no such key"],
    ),
    (f"method: &a [{', '.join(['*b'] * 9)}]".replace("*b", "[1, 2]").encode(), ["method=[[1, 2]", _A]),
]
