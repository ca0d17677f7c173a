"""The benchmark against the peers at toy size: its contenders have one network, and its table what was measured."""

import dataclasses
import json
import subprocess
import sys

import pytest

from benchmarks import throughput
from benchmarks.sizes import Sizes


@pytest.mark.system
def test_two_contenders_side_by_side(tmp_path):
    out = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks.throughput", "--toy", "--batch=16", "--repetitions=3", "--augmented"]
    command += ["--contenders=ours;keras-jax;torch", f"--out={out}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    ours, theirs = result["summaries"]
    assert (ours["name"], theirs["name"]) == ("ours", "keras-jax") and "Left out" in done.stdout
    assert ours["parameters"] == theirs["parameters"] > 0 and ours["train"]["ratio"] == 1
    for one in (ours, theirs):
        assert len(one["train"]["all"]) == 3 and min(one["predict"]["all"]) > 0 and one["peak_mib"] > 100
    ratios = [a / b for a, b in zip(ours["train"]["all"], theirs["train"]["all"], strict=True)]
    assert theirs["train"]["ratio"] == sorted(ratios)[1]
    assert throughput.table(result["summaries"]) in done.stdout
    assert result["product_flops"] > 1e9 and "GFLOP/s; ours needs" in done.stdout


def test_the_share_of_the_limit_counts_what_is_executed():
    """EANet executes 84.1 million multiply-adds an image forward, where the published count is 100.9."""
    sizes = dataclasses.asdict(Sizes())
    text = throughput.describe_limit(sizes, {"train": 100.0, "predict": 150.0}, 6 * 84.09e8)
    assert text.endswith(": 50 GFLOP/s; ours needs 100% of it in training, 50% of it in inference")


def test_networks_that_differ_are_no_comparison(monkeypatch):
    class Fake:
        def __init__(self, name, settings):
            self.facts = {"parameters": len(name)}

        def measure(self, what):
            return {"images_per_second": 1.0, "peak_mib": 1.0}

        def close(self):
            pass

    monkeypatch.setattr(throughput, "Contender", Fake)
    with pytest.raises(SystemExit, match="networks differ: .4, 5."):
        throughput.measure(["ours", "torch"], {}, 1)


@pytest.mark.parametrize("attention", ["external", "self"])
def test_the_torch_networks_have_the_documents_parameters(attention):
    pytest.importorskip("torch")
    from benchmarks.peers.torch_model import VisionTransformer

    model = VisionTransformer(Sizes(attention=attention))
    assert (
        sum(parameter.numel() for parameter in model.parameters()) == {"external": 361_380, "self": 623_268}[attention]
    )
