"""The spread over seeds by source, against SciPy and by hand."""

import numpy as np
import pytest
from scipy import stats

from eanet.compare import comparison, finished_run
from eanet.compare import table as comparison_table
from eanet.compare.finding import finding
from eanet.compare.variance import by_source
from eanet.errors import UserError
from helpers.finished_runs import read_comparison, write_arm

_ALL = {0: 0.4, 1: 0.44, 2: 0.42, 3: 0.46}
_ORDER = {0: 0.4, 1: 0.42, 2: 0.41}
_WITHOUT_ORDER = ("init", "augment", "dropout")


@pytest.fixture
def result(tmp_path):
    write_arm(tmp_path, "eanet", _ALL)
    write_arm(tmp_path, "eanet", _ORDER, fixed=_WITHOUT_ORDER)
    write_arm(tmp_path, "eanet", {0: 0.4, 1: 0.4}, fixed=("init", "order", "augment", "dropout"))
    write_arm(tmp_path, "vit", {0: 0.5, 1: 0.52}, fixed=_WITHOUT_ORDER)
    runs, notes = finished_run.find_runs([tmp_path])
    return comparison.compare(runs, (), "", notes, variance=True)


def test_deviations_are_of_the_arms_with_their_intervals_and_ratios(result):
    """By hand: the variances are 20/3 and 1 of (points)²; runs of which nothing varies have no row."""
    whole, order, other = result.spreads
    assert [(one.arm, one.varied, one.n) for one in result.spreads] == [
        ("attention=external", ("init", "order", "augment", "dropout"), 4),
        ("attention=external", ("order",), 3),
        ("attention=self", ("order",), 2),
    ]
    assert (whole.deviation, order.deviation) == pytest.approx((np.std(list(_ALL.values()), ddof=1), 0.01))
    assert order.ratio == pytest.approx(3 / 20) and np.isnan(whole.ratio) and np.isnan(other.ratio)
    for end, tail in ((order.ratio_low, 0.975), (order.ratio_high, 0.025)):
        assert stats.f.cdf(order.ratio / end, 2, 3) == pytest.approx(tail)
    for one in result.spreads:
        for end, share in ((one.low, 0.975), (one.high, 0.025)):
            assert stats.chi2.cdf((one.n - 1) * (one.deviation / end) ** 2, one.n - 1) == pytest.approx(share)


def test_they_are_a_table_of_every_format(result):
    grid = comparison_table.spread_by_source(result)
    assert [row[1].text for row in grid.rows] == ["all", "order", "order"]
    assert [cell.text for cell in grid.rows[1]][2:] == ["3", "1.00", "0.52 to 6.28", "15 (1 to 587)"]
    assert grid.title in [one.title for one in comparison_table.grids(result)]
    markdown = comparison_table.markdown(result)
    assert "| attention=external | order | 3 | 1.00 | 0.52 to 6.28 | 15 (1 to 587) |" in markdown
    assert "By what follows the seed: the other sources are seed 0's" in markdown
    assert "fixed=init+augment+dropout" in markdown


def test_arms_that_differ_in_what_is_fixed_are_not_tested_against_each_other(result, tmp_path):
    """Their runs of seed 0 are the same: a paired test would take that for a difference of exactly 0."""
    versus = {name: one for name, one in result.versus.items() if name.endswith("attention=external")}
    assert len(versus) == 2
    for one in versus.values():
        assert one.difference.test == "none" and one.difference.why_no_test == comparison.WHY_NOT_FIXED
        numbers = one.p_holm, one.mcnemar, one.with_images.half_width, one.superiority.probability, one.detectable
        assert np.isnan(numbers).all()
    assert finding(result).startswith(
        "Deviation of test accuracy over seeds, in points with 95% intervals, by what follows the seed: "
        "attention=external, all sources 2.58 (1.46 to 9.63); attention=external, order 1.00 (0.52 to 6.28); "
    )
    runs, notes = finished_run.find_runs([tmp_path])
    external = [run for run in runs if run.fields["model.attention"] == "external"]
    said = finding(comparison.compare(external, (), "", notes))
    assert said.startswith("The arms differ in config.fixed alone") and said.endswith(
        "--variance compares their spread."
    )


def test_a_whole_without_variance_has_no_ratio(tmp_path):
    write_arm(tmp_path, "eanet", {0: 0.7, 1: 0.7, 2: 0.7})  # whose variance rounds to 1e-32
    write_arm(tmp_path, "eanet", _ORDER, fixed=_WITHOUT_ORDER)
    runs, notes = finished_run.find_runs([tmp_path])
    spreads = comparison.compare(runs, (), "", notes, variance=True).spreads
    assert len(spreads) == 2 and all(np.isnan(one.ratio) for one in spreads)


def test_runs_that_all_vary_the_same_are_refused(tmp_path):
    write_arm(tmp_path, "eanet", _ALL)
    write_arm(tmp_path, "vit", _ALL)
    result = read_comparison(tmp_path)
    assert not result.spreads and len(comparison_table.grids(result)) == 2
    with pytest.raises(UserError, match=r"--variance: no arms .* accepted: the runs of sweeps/variance.yaml"):
        by_source(result.arms)


def test_arms_that_mix_what_is_fixed_are_refused(tmp_path):
    write_arm(tmp_path, "eanet", {0: 0.4, 1: 0.5})
    write_arm(tmp_path, "eanet", {2: 0.4, 3: 0.5}, fixed=_WITHOUT_ORDER)
    runs, notes = finished_run.find_runs([tmp_path])
    with pytest.raises(UserError, match="add fixed to --by"):
        comparison.compare(runs, ["model.attention"], "", notes, variance=True)
