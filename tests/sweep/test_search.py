"""Which points a sweep tries: grids in order, draws with W&B's distributions, proposals that learn."""

import collections
import dataclasses
import itertools
import math
import pathlib
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eanet import cli
from eanet.sweep import distributions, search
from eanet.sweep.file import Parameter, SweepFile

_LOG = stats.loguniform(0.001, 10)
# Bounds (or moments), and the same distribution by scipy; log_uniform's bounds are exponents of e.
_REFERENCE = {
    "uniform": ({"min": -2, "max": 6.5}, stats.uniform(-2, 8.5)),
    "log_uniform": ({"min": -3, "max": 2}, stats.loguniform(math.exp(-3), math.exp(2))),
    "log_uniform_values": ({"min": 0.001, "max": 10}, _LOG),
    "inv_log_uniform": ({"min": -3, "max": 2}, stats.loguniform(math.exp(-2), math.exp(3))),
    "inv_log_uniform_values": ({"min": 0.001, "max": 10}, _LOG),
    "normal": ({"mu": 3, "sigma": 0.5}, stats.norm(3, 0.5)),
    "log_normal": ({"mu": -1, "sigma": 0.5}, stats.lognorm(0.5, scale=math.exp(-1))),
    "beta": ({"a": 2, "b": 5}, stats.beta(2, 5)),
}
_DEFAULTS = {"normal": stats.norm(), "log_normal": stats.lognorm(1), "beta": stats.uniform()}
_SHARES = st.floats(1e-9, 1 - 1e-9)


def _sweep(method="grid", run_cap=0, maximize=True, **parameters):
    """Return a sweep; a parameter is a tuple of values, or a distribution's name and numbers."""
    made = {name: spec if isinstance(spec, Parameter) else Parameter(values=spec) for name, spec in parameters.items()}
    return SweepFile(pathlib.Path("x.yaml"), "main.py", (), method, made, "val/accuracy", maximize, run_cap)


def _distributed(name, **numbers):
    return Parameter(distribution=name, numbers=numbers)


def _drawn(parameter, count):
    return [point["x"] for point in search.random(_sweep("random", count, x=parameter))]


def test_a_grid_has_every_combination_in_order_up_to_its_cap():
    sweep = _sweep(heads=(4, 2), flip=(True, False), seed=(0, 1, 2))
    points = search.grid(sweep)
    assert [tuple(point.values()) for point in points] == list(itertools.product((4, 2), (True, False), (0, 1, 2)))
    assert {tuple(point) for point in points} == {("heads", "flip", "seed")}
    for cap in (1, 5, 12, 100):
        assert search.grid(dataclasses.replace(sweep, run_cap=cap)) == points[:cap]


def test_every_distribution_has_a_reference():
    quantized = {f"q_{name}" for name in _REFERENCE if not name.startswith("inv_")}
    assert set(distributions.CONTINUOUS) == set(_REFERENCE) | quantized | {"int_uniform"}


@pytest.mark.parametrize("name", _REFERENCE)
@given(u=_SHARES)
def test_quantiles_are_those_of_scipy(name, u):
    numbers, reference = _REFERENCE[name]
    value = distributions.quantile(name, numbers, u)
    assert type(value) is float
    assert value == pytest.approx(reference.ppf(u), rel=1e-9, abs=1e-9)
    if name in _DEFAULTS:
        assert distributions.quantile(name, {}, u) == pytest.approx(_DEFAULTS[name].ppf(u), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in _REFERENCE if not name.startswith("inv_")])
@given(u=_SHARES, q=st.sampled_from([0.05, 0.25, 0.1, 1, 2, 3.0]))
def test_quantized_values_are_the_nearest_multiples(name, u, q):
    numbers, reference = _REFERENCE[name]
    value = distributions.quantile(f"q_{name}", numbers | {"q": q}, u)
    assert type(value) is type(q)
    assert value / q == pytest.approx(round(value / q), abs=1e-9)
    assert abs(value - reference.ppf(u)) <= q / 2 * (1 + 1e-9)
    assert value == float(f"{value:.12g}"), "digits that nobody wrote, 0.35000000000000003 say"
    step_1 = distributions.quantile(f"q_{name}", numbers, u)
    assert step_1 == round(step_1) and abs(step_1 - reference.ppf(u)) <= 0.5 + 1e-9


@given(
    low=st.integers(-1000, 1000), width=st.integers(1, 2**32), u=st.one_of(_SHARES, st.sampled_from([1e-12, 1 - 1e-12]))
)
def test_whole_numbers_lie_within_their_bounds_and_as_scipy_has_them(low, width, u):
    value = distributions.quantile("int_uniform", {"min": low, "max": low + width}, u)
    assert type(value) is int and low <= value <= low + width
    share = (value - low + np.array([0, 1])) / (width + 1)  # of what lies below and up to it
    assert share[0] - 1e-9 <= u <= share[1] + 1e-9


def test_whole_numbers_are_uniform_with_both_bounds():
    shares = (np.arange(7000) + 0.5) / 7000
    values = [distributions.quantile("int_uniform", {"min": 2, "max": 8}, u) for u in shares.tolist()]
    assert collections.Counter(values) == dict.fromkeys(range(2, 9), 1000)


@pytest.mark.parametrize(
    ("name", "numbers", "says"),
    [
        ("uniform", {"min": 0}, "uniform needs max"),
        ("int_uniform", {"min": 0, "max": 1.5}, "int_uniform takes whole numbers"),
        ("uniform", {"min": 0, "max": math.inf}, "max=inf is not a finite number"),
        ("uniform", {"min": True, "max": 3}, "min=True is not a finite number"),
        ("uniform", {"min": "1e-3", "max": 1}, "min='1e-3' is not a finite number; YAML reads 1e-3 as text"),
        ("uniform", {"min": 1, "max": 1}, "min=1 is not below max=1"),
        ("uniform", {"min": 0, "max": 1, "q": 2}, "uniform has no 'q'"),
        ("uniform", {"min": 0, "max": 1, "p": 2, 3: 4}, "uniform has no"),
        ("log_uniform_values", {"min": 0, "max": 1}, "min=0 is not above 0"),
        ("inv_log_uniform_values", {"min": -1, "max": 1}, "min=-1 is not above 0"),
        ("q_log_uniform_values", {"min": 0.0, "max": 1}, "min=0.0 is not above 0"),
        ("log_uniform", {"min": 1, "max": 1000}, "max=1000"),
        ("log_normal", {"sigma": 1000}, "sigma=1000"),
        ("q_uniform", {"min": 0, "max": 1, "q": 0}, "q=0 is not above 0"),
        ("normal", {"sigma": 0}, "sigma=0 is not above 0"),
        ("beta", {"a": -1}, "a=-1 is not above 0"),
    ],
)
def test_numbers_that_make_no_distribution_are_named(name, numbers, says):
    assert says in distributions.check(name, numbers)


def test_draws_repeat_and_the_first_do_not_depend_on_how_many_follow():
    parameters = {"x": _distributed("normal"), "seed": Parameter(values=(0,)), "y": Parameter(values=("a", "b"))}
    points = search.random(_sweep("random", 200, **parameters))
    assert points == search.random(_sweep("random", 200, **parameters))
    assert points[:7] == search.random(_sweep("random", 7, **parameters))
    assert len({point["x"] for point in points}) == 200 and {point["seed"] for point in points} == {0}


def test_draws_of_a_parameter_do_not_depend_on_the_others():
    """So that --seeds, which takes the seed out of the file's parameters, tries the same points."""
    x, y, seed = _distributed("uniform", min=0, max=1), _distributed("uniform", min=0, max=1), Parameter(values=(0,))
    points = search.random(_sweep("random", 500, x=x, seed=seed, y=y))
    without = search.random(_sweep("random", 500, x=x, y=y))
    assert [point | {"seed": 0} for point in without] == points
    correlation = stats.spearmanr([point["x"] for point in points], [point["y"] for point in points])
    assert correlation.pvalue > 0.001, "two parameters move together"


@pytest.mark.parametrize("name", _REFERENCE)
def test_draws_are_distributed_as_scipy_says(name):
    numbers, reference = _REFERENCE[name]
    assert stats.kstest(_drawn(_distributed(name, **numbers), 2000), reference.cdf).pvalue > 0.001


@pytest.mark.parametrize("probabilities", [(), (0.7, 0.0, 0.2, 0.1)])
def test_values_are_drawn_with_their_probabilities(probabilities):
    values = ("a", 1, True, 0.5)
    drawn = _drawn(Parameter(values=values, probabilities=probabilities), 4000)
    shares = probabilities or (0.25,) * 4
    counted = collections.Counter((type(value), value) for value in drawn)
    counts = [counted[type(value), value] for value in values]
    expected = [4000 * share for share in shares]
    assert sum(counts) == 4000
    assert all(count == 0 for count, share in zip(counts, shares, strict=True) if not share)
    compared = [(count, wanted) for count, wanted in zip(counts, expected, strict=True) if wanted]
    assert stats.chisquare(*zip(*compared, strict=True)).pvalue > 0.001


_SPACE = {
    "rate": _distributed("log_uniform_values", min=1e-5, max=1.0),
    "dropout": _distributed("q_uniform", min=0.0, max=0.5, q=0.05),
    "kind": Parameter(values=("self", "none", "external")),
    "heads": Parameter(values=(4,)),
}


def _distance(values):
    """Measure how far a point is from the best one: rate 0.001, dropout 0.2, external."""
    return (math.log10(values["rate"]) + 3) ** 2 + (8 * values["dropout"] - 1.6) ** 2 + (values["kind"] != "external")


def _search(trials, maximize=False, fails=lambda i: False, distance=_distance):
    """Return the points that Bayes proposes where the i-th run fails or has the distance as its result."""
    proposer = search.Bayes(_sweep("bayes", trials, maximize, **_SPACE))
    points = []
    for i in range(trials):
        trial, values = proposer.propose()
        points.append(values)
        result = -distance(values) if maximize else distance(values)
        proposer.learn(trial, None if fails(i) else result)
    return points


@pytest.mark.parametrize("maximize", [False, True])
def test_proposals_come_nearer_than_draws(maximize):
    trials = 40
    drawn = [_distance(point) for point in search.random(_sweep("random", trials, **_SPACE))]
    proposed = [_distance(point) for point in _search(trials, maximize)]
    assert np.median(proposed[-15:]) < 0.5 * np.median(drawn[-15:])
    assert np.median(proposed[-15:]) < 0.5 * np.median(proposed[:10]), "it has not learnt"


def test_proposals_follow_from_results_and_from_nothing_else():
    points = _search(20)
    assert points == _search(20)
    others = _search(20, distance=lambda values: -_distance(values))
    assert points[0] == others[0] and points != others


def test_proposals_keep_to_the_file():
    for point in _search(25):
        assert list(point) == list(_SPACE) and point["heads"] == 4
        assert 1e-5 <= point["rate"] <= 1 and 0 <= point["dropout"] <= 0.5
        assert point["kind"] in _SPACE["kind"].values
        assert {name: type(value) for name, value in point.items()} == {
            "rate": float, "dropout": float, "kind": str, "heads": int,
        }  # fmt: skip


def test_a_failed_trial_is_survived_and_not_learnt_from():
    points = _search(40, fails=lambda i: i % 3 == 0)
    assert np.median([_distance(point) for point in points[-15:]]) < np.median([_distance(p) for p in points[:10]])
    assert len(_search(5, fails=lambda i: True)) == 5


def test_without_optuna_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert cli.run(lambda: search.Bayes(_sweep("bayes", 3, **_SPACE))) == 1
    error = capsys.readouterr().err
    assert "pip install -e '.[bayes]'" in error and error.count("\n") == 1


def test_a_capped_grid_is_not_made_whole():
    """It would have 10^18 points."""
    sweep = _sweep(run_cap=3, **{f"p{i}": tuple(range(1000)) for i in range(6)})
    assert [values["p5"] for values in search.grid(sweep)] == [0, 1, 2]


@pytest.mark.parametrize("number", [10**400, -math.inf, math.nan, "1"])
def test_what_is_no_finite_number_is_named(number):
    assert distributions.check("uniform", {"min": 0, "max": 1}) is None
    assert distributions.check("uniform", {"min": 0, "max": number}).startswith("max=")
