"""The distributions of a sweep file, with W&B's names and meanings, each as its quantile function.

Source: W&B's sweep configuration reference and its published search code (PyPI: sweeps 0.3.0).
"""

import math
from collections.abc import Callable
from typing import Any

from scipy import stats

_LARGEST = 1e300  # of a file's numbers; YAML has .inf, .nan and whole numbers of any length
_Quantile = Callable[..., Any]


def _uniform(u: float, min: float, max: float) -> float:  # noqa: A002, the sweep file's own names
    return min + u * (max - min)


def _int_uniform(u: float, min: int, max: int) -> int:  # noqa: A002
    return int(math.floor(_uniform(u, min, max + 1)))


def _log_uniform(u: float, min: float, max: float) -> float:  # noqa: A002, exponents of e
    return math.exp(_uniform(u, min, max))


def _log_uniform_values(u: float, min: float, max: float) -> float:  # noqa: A002
    return math.exp(_uniform(u, math.log(min), math.log(max)))


def _inv_log_uniform(u: float, min: float, max: float) -> float:  # noqa: A002
    return math.exp(-_uniform(1 - u, min, max))


def _normal(u: float, mu: float = 0.0, sigma: float = 1.0) -> float:
    return float(stats.norm.ppf(u, mu, sigma))


def _log_normal(u: float, mu: float = 0.0, sigma: float = 1.0) -> float:
    return math.exp(_normal(u, mu, sigma))


def _beta(u: float, a: float = 1.0, b: float = 1.0) -> float:
    return float(stats.beta.ppf(u, a, b))


def _quantized(quantile: _Quantile) -> _Quantile:
    def call(u: float, q: float = 1, **numbers: float) -> float:
        value = round(quantile(u, **numbers) / q) * q
        return int(value) if type(q) is int else float(f"{value:.12g}")  # 0.35, not 0.35000000000000003

    return call


_BOUNDS, _NORMAL, _BETA = ({"min", "max"}, set()), (set(), {"mu", "sigma"}), (set(), {"a", "b"})
_CONTINUOUS: dict[str, tuple[_Quantile, tuple[set[str], set[str]]]] = {
    "uniform": (_uniform, _BOUNDS),
    "log_uniform": (_log_uniform, _BOUNDS),
    "log_uniform_values": (_log_uniform_values, _BOUNDS),
    "inv_log_uniform": (_inv_log_uniform, _BOUNDS),
    # The inverse is taken twice, so the values lie as log_uniform_values has them.
    "inv_log_uniform_values": (_log_uniform_values, _BOUNDS),
    "normal": (_normal, _NORMAL),
    "log_normal": (_log_normal, _NORMAL),
    "beta": (_beta, _BETA),
}
# name: quantile function, (keys it needs, keys it may have)
CONTINUOUS = _CONTINUOUS | {
    f"q_{name}": (_quantized(quantile), (needs, may | {"q"}))
    for name, (quantile, (needs, may)) in _CONTINUOUS.items()
    if not name.startswith("inv_")
}
CONTINUOUS["int_uniform"] = (_int_uniform, _BOUNDS)


def check(name: str, numbers: dict[str, Any]) -> str | None:
    """Say what is wrong with a distribution's numbers; None if nothing is."""
    needs, may = CONTINUOUS[name][1]
    given = set(numbers)
    if needs - given:
        return f"{name} needs {' and '.join(sorted(needs - given))}"
    if given - needs - may:
        return f"{name} has no {next(key for key in numbers if key not in needs | may)!r}"
    for key, value in numbers.items():
        if type(value) not in (int, float) or not -_LARGEST <= value <= _LARGEST:
            return f"{key}={value!r} is not a finite number" + (
                "; YAML reads 1e-3 as text, write 1.0e-3 or 0.001" if isinstance(value, str) else ""
            )
    if needs and not numbers["min"] < numbers["max"]:
        return f"min={numbers['min']} is not below max={numbers['max']}"
    if name.endswith("log_uniform_values") and numbers["min"] <= 0:
        return f"min={numbers['min']} is not above 0"
    for key in ("q", "sigma", "a", "b"):
        if numbers.get(key, 1) <= 0:
            return f"{key}={numbers[key]} is not above 0"
    if name == "int_uniform" and any(type(value) is not int for value in numbers.values()):
        return "int_uniform takes whole numbers"
    try:
        finite = all(math.isfinite(quantile(name, numbers, u)) for u in (1e-12, 1 - 1e-12))
    except OverflowError:
        finite = False
    if not finite:
        exponents = "; min and max are exponents of e, log_uniform_values takes values" if "max" in numbers else ""
        return f"{name} with {', '.join(f'{key}={value}' for key, value in numbers.items())} is too wide{exponents}"
    return None


def quantile(name: str, numbers: dict[str, Any], u: float) -> Any:
    """Return the value below which a share `u` of the distribution lies, 0 < u < 1."""
    return CONTINUOUS[name][0](u, **numbers)
