"""Groups of runs and their numbers against scipy's, from synthetic records and from two real runs."""

import json

import numpy as np
import pytest
from scipy import stats

from eanet import train
from eanet.compare.explanations import explanations
from eanet.errors import UserError
from helpers import runs
from helpers.finished_runs import ARMS, answers, change_json, make_config, read_comparison, write_arm, write_run
from helpers.tiny import tiny_config


def test_groups_are_named_by_the_fields_in_which_runs_differ(three_arms):
    result = read_comparison(three_arms)
    assert [arm.name for arm in result.arms] == ["attention=external", "attention=none", "attention=self"]
    assert [[run.seed for run in arm.runs] for arm in result.arms] == [[0, 1, 2], [10, 11, 12, 13], [0, 1, 2]]
    assert result.baseline is result.arms[0] and not result.notes
    assert result.also_differ == {"model.projection_dropout": [0.0, 0.2]}  # follows from the attention, and is said
    assert "The runs also differ in model.projection_dropout: 0.0, 0.2." in explanations(result)


def test_fields_without_effect_do_not_split_groups(tmp_path):
    """Self-attention has no memories, external attention no head_dim; where a run is logged does not matter."""
    write_arm(tmp_path / "a", "vit", {0: 0.4}, model__memory_size=16)
    write_arm(tmp_path / "b", "vit", {1: 0.4}, model__memory_size=32, model__share_memories=True, data__dir="/there")
    write_arm(tmp_path / "c", "none", {0: 0.4}, model__num_heads=2, model__attention_dropout=0.1)
    write_arm(tmp_path / "d", "none", {1: 0.4}, model__num_heads=8, wandb__group="x", checkpoint__keep=5)
    assert [arm.name for arm in read_comparison(tmp_path).arms] == ["attention=none", "attention=self"]
    write_arm(tmp_path / "e", "eanet", {0: 0.4}, model__memory_size=16, model__head_dim=64)
    write_arm(tmp_path / "f", "eanet", {0: 0.4}, model__memory_size=128, model__head_dim=16)
    names = [arm.name for arm in read_comparison(tmp_path).arms]
    external = [f"attention=external, memory_size={size}" for size in (16, 128)]  # by size and not by text
    assert names == [*external, "attention=none", "attention=self"]


def test_by_chooses_the_fields(tmp_path):
    for heads, first in ((2, 0), (4, 10)):
        write_arm(tmp_path / str(heads), "eanet", {first: 0.4, first + 1: 0.41}, model__num_heads=heads)
    write_arm(tmp_path / "self", "vit", {0: 0.39})
    result = read_comparison(tmp_path, by=["model.attention"])
    assert [(arm.name, len(arm.runs)) for arm in result.arms] == [
        ("attention=external", 4),
        ("attention=self", 1),
    ]
    assert result.also_differ["model.num_heads"] == [2, 4]
    assert [arm.name for arm in read_comparison(tmp_path, by=["model.memory_size"]).arms] == [
        "memory_size=0",
        "memory_size=–",
    ]
    assert len(read_comparison(tmp_path / "2", by=["wandb.tags"]).arms) == 1  # a list, once it has been through JSON
    for by in ("model.heads", "seed"):
        with pytest.raises(UserError, match=f"--by: '{by}'; accepted"):
            read_comparison(tmp_path, by=[by])
    write_arm(tmp_path / "8", "eanet", {0: 0.4}, model__num_heads=8)  # a second run with seed 0
    with pytest.raises(UserError, match="same seed, but differ in model.num_heads; add it to --by"):
        read_comparison(tmp_path, by=["model.attention"])


@pytest.mark.parametrize(
    "field, value", [("data__name", "cifar10"), ("data__validation_fraction", 0.1), ("data__eval_limit", 400)]
)
def test_other_data_or_splits_are_refused(tmp_path, field, value):
    (one,) = write_arm(tmp_path / "a", "eanet", {0: 0.4})
    (other,) = write_arm(tmp_path / "b", "vit", {0: 0.4}, **{field: value})
    with pytest.raises(UserError) as refused:
        read_comparison(tmp_path)
    message = str(refused.value)
    assert one.name in message and other.name in message and repr(value) in message
    assert f"config.{field.replace('__', '.')}" in message


def test_a_limit_of_evaluation_is_said(tmp_path):
    write_arm(tmp_path, "eanet", {0: 0.4}, data__eval_limit=400)
    assert (
        "Validated and tested on the first 400 images of each split only (data.eval_limit)."
        in read_comparison(tmp_path).notes
    )


def test_other_test_images_are_refused(tmp_path):
    for name, images in (("short", 390), ("long", 400)):
        write_run(tmp_path / name, make_config(seed=images), answers(0.4, 0, images))
    with pytest.raises(UserError, match=r"(short and long|long and short) were tested on different images"):
        read_comparison(tmp_path)


def test_the_baseline_is_found_by_its_fields(tmp_path):
    for heads in (2, 4):
        for arm in ("eanet", "vit"):
            write_arm(tmp_path, arm, {0: 0.4, 1: 0.42}, model__num_heads=heads)
    result = read_comparison(tmp_path, baseline="model.attention=self,model.num_heads=4")
    assert result.baseline.by == {"model.attention": "self", "model.num_heads": 4}
    assert sorted(result.versus) == sorted(arm.name for arm in result.arms if arm is not result.baseline)
    for text, count in (("model.attention=self", 2), ("model.num_heads=3", 0), ("model.heads=4", 0), ("self", 0)):
        with pytest.raises(UserError, match=f"--baseline={text} fits {count} arms; accepted.*attention=self"):
            read_comparison(tmp_path, baseline=text)


def test_a_groups_numbers_are_scipys(three_arms):
    arm = read_comparison(three_arms).arms[2]
    values = list(ARMS["vit"].values())
    estimate = arm.estimate("test/accuracy")
    assert arm.values("test/accuracy") == pytest.approx(ARMS["vit"])
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (estimate.mean - estimate.half_width, estimate.mean + estimate.half_width) == pytest.approx((low, high))
    assert arm.estimate("val/accuracy").mean == pytest.approx(1.1 * np.mean(values))  # as the records have it
    assert 72 < arm.estimate("seconds").mean < 73  # compiling, training and evaluation
    assert arm.estimate("parameters").mean == 623_268


def _mcnemar(one, other):
    """Test the answers of two runs as they lie on disk."""
    a, b = (np.load(run.workdir / "predictions.npz")["accuracy"] == 1 for run in (one, other))
    return stats.binomtest(int((a & ~b).sum()), int((a != b).sum())).pvalue


def test_differences_are_scipys(three_arms):
    result = read_comparison(three_arms)
    external, none, self_attention = result.arms
    paired, welch = result.versus["attention=self"], result.versus["attention=none"]
    reference = stats.ttest_rel(list(ARMS["vit"].values()), list(ARMS["eanet"].values()))
    assert (paired.difference.test, paired.difference.n) == ("paired t", (3, 3))
    low, high = reference.confidence_interval(0.95)
    assert paired.difference.mean == pytest.approx((low + high) / 2)
    assert paired.difference.half_width == pytest.approx((high - low) / 2)
    unpaired = stats.ttest_ind(list(ARMS["none"].values()), list(ARMS["eanet"].values()), equal_var=False)
    assert (welch.difference.test, welch.difference.n) == ("Welch t", (4, 3))
    assert (paired.difference.p_value, welch.difference.p_value) == pytest.approx((reference.pvalue, unpaired.pvalue))
    assert unpaired.pvalue < reference.pvalue  # so Holm doubles the former
    assert welch.p_holm == pytest.approx(2 * unpaired.pvalue)
    assert paired.p_holm == pytest.approx(max(2 * unpaired.pvalue, reference.pvalue))
    # With a true difference of this size the noncentral t test at half of 5%, for two tests, has 80% power.
    error = paired.difference.half_width / stats.t.ppf(0.975, 2)
    power = stats.nct.sf(stats.t.ppf(1 - 0.025 / 2, 2), 2, paired.detectable / error)
    assert power == pytest.approx(0.8, abs=1e-6)
    for versus, arm in ((paired, self_attention), (welch, none)):
        pairs = list(zip(arm.runs, external.runs, strict=False))  # by seed, or in their order
        expected = min(1, 2 * np.median([_mcnemar(*pair) for pair in pairs]))
        assert len(pairs) == 3 and versus.mcnemar == pytest.approx(expected)
    assert welch.mcnemar < paired.mcnemar
    assert welch.mcnemar_holm == pytest.approx(2 * welch.mcnemar)
    assert paired.mcnemar_holm == pytest.approx(max(2 * welch.mcnemar, paired.mcnemar))


def test_images_are_compared_between_runs_of_one_seed(tmp_path):
    """Networks of one seed agree on every image, and a later seed is right on more than an earlier one."""
    for arm, seeds in (("eanet", (0, 1, 2)), ("vit", (1, 2, 3))):
        for seed in seeds:
            write_run(tmp_path / f"{arm}{seed}", make_config(arm, seed=seed), np.arange(400) < 100 * seed + 50)
    versus = read_comparison(tmp_path).versus["attention=self"]
    assert versus.mcnemar == 1
    assert versus.difference.test == "none" and "do not vary" in versus.difference.why_no_test


def test_networks_that_err_in_opposite_directions_are_no_evidence(tmp_path):
    """Seed 0 gains what seed 1 loses, on many images: McNemar over the pairs must not call that a difference."""
    low, high = np.arange(400) < 120, np.arange(400) < 200
    for arm, rights in (("eanet", (low, high)), ("vit", (high, low))):
        for seed, correct in enumerate(rights):
            write_run(tmp_path / f"{arm}{seed}", make_config(arm, seed=seed), correct)
    versus = read_comparison(tmp_path).versus["attention=self"]
    assert versus.difference.mean == 0 and versus.mcnemar == 1


def test_one_run_an_arm_is_compared_image_by_image(tmp_path):
    """McNemar's test is of two networks, and needs no more than them; the methods need seeds."""
    write_arm(tmp_path, "eanet", {0: 0.4})
    write_arm(tmp_path, "vit", {0: 0.6})
    result = read_comparison(tmp_path)
    (versus,) = result.versus.values()
    assert versus.mcnemar == versus.mcnemar_holm == pytest.approx(_mcnemar(*(g.runs[0] for g in result.arms)))
    assert 0 < versus.mcnemar < 0.001 and np.isnan(versus.p_holm)
    assert "McNemar's p is of two networks, not of the methods" in versus.notes


def test_one_run_is_paired_with_the_run_of_its_seed(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"eanet{seed}", make_config("eanet", seed=seed), np.arange(400) < 100 + 100 * seed)
    write_run(tmp_path / "vit", make_config("vit", seed=1), np.arange(400) < 200)
    assert read_comparison(tmp_path).versus["attention=self"].mcnemar == 1  # seed 0 is right on half as many


@pytest.mark.parametrize("metric", ["parameters", "mmac"])
def test_costs_that_are_not_matched_are_noted(tmp_path, metric):
    costs = {"eanet": 1000, "vit": 1099, "none": 1101}
    for arm, value in costs.items():
        for workdir in write_arm(tmp_path, arm, {0: 0.4, 1: 0.41}):
            change_json(workdir / "results.json", **{"parameters": 1000, "mmac": 1000} | {metric: value})
    versus = read_comparison(tmp_path).versus
    title = {"parameters": "parameters", "mmac": "MMAC"}[metric]
    assert versus["attention=self"].notes == []
    assert versus["attention=none"].notes == [f"not matched: {title} 1.10× the baseline's"]
    versus = read_comparison(tmp_path, baseline="model.attention=none").versus  # 9.2% less, and 0.2%
    assert versus["attention=external"].notes == versus["attention=self"].notes == []


def test_real_runs_are_read_and_compared(tmp_path):
    """Also: the synthetic runs of the other tests have the files and the names of real ones."""
    results = {seed: train.train(tiny_config(seed=seed), tmp_path / f"{seed}") for seed in (0, 1)}
    result = read_comparison(tmp_path)
    (arm,) = result.arms
    assert arm.values("test/accuracy") == {seed: result["test/accuracy"] for seed, result in results.items()}
    assert [np.mean(run.correct) for run in arm.runs] == pytest.approx([r["test/accuracy"] for r in results.values()])
    assert arm.runs[0].class_names == tuple("0123456789") and len(arm.runs[0].rows) == 2
    real, synthetic = tmp_path / "0", write_run(tmp_path / "made", make_config("digits"), answers(0.4, 0))
    for name in ("config.json", "results.json", "environment.json"):
        one, other = (json.loads((workdir / name).read_text()).keys() for workdir in (real, synthetic))
        assert list(one) == list(other), name
    one, other = ({k: v.dtype.kind for k, v in np.load(d / "predictions.npz").items()} for d in (real, synthetic))
    assert one == other
    one, other = (runs.rows(workdir, timings=True)[-1] for workdir in (real, synthetic))
    assert one.keys() == other.keys()
