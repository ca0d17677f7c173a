"""Which values to try: the points of a grid, random draws, or proposals that learn from results."""

import itertools
import zlib
from typing import Any

import numpy as np

from eanet.errors import UserError
from eanet.sweep import distributions
from eanet.sweep.file import Parameter, SweepFile

_SEED = 0  # of the draws, so that the same file always gives the same points

Values = dict[str, Any]


def grid(sweep: SweepFile) -> list[Values]:
    """Return every combination, the first parameter of the file changing slowest."""
    combinations = itertools.product(*(parameter.values for parameter in sweep.parameters.values()))
    capped = itertools.islice(combinations, sweep.run_cap or None)
    return [dict(zip(sweep.parameters, values, strict=True)) for values in capped]


def random(sweep: SweepFile) -> list[Values]:
    """Return run_cap independent draws; a parameter's do not depend on how many follow, nor on the other parameters."""
    columns = {}
    for name, parameter in sweep.parameters.items():
        generator = np.random.default_rng([_SEED, zlib.crc32(name.encode())])
        columns[name] = [_value(parameter, u) for u in generator.random(sweep.run_cap).tolist()]
    return [{name: column[i] for name, column in columns.items()} for i in range(sweep.run_cap)]


def _value(parameter: Parameter, u: float) -> Any:
    """Return the value at the quantile `u` of a parameter."""
    if not parameter.values:
        # 0 has no quantile in a normal distribution.
        return distributions.quantile(parameter.distribution, parameter.numbers, max(u, 1e-12))
    count = len(parameter.values)
    edges = np.cumsum(parameter.probabilities or [1 / count] * count)
    return parameter.values[min(int(np.searchsorted(edges, u, side="right")), count - 1)]


class Bayes:
    """Propose points by Optuna's tree-structured Parzen estimator (W&B's server takes a Gaussian process).

    The same proposals follow from the same results, so an interrupted search finds its runs again.
    """

    def __init__(self, sweep: SweepFile):
        try:
            import optuna
        except ImportError as error:
            raise UserError("method=bayes needs Optuna: pip install -e '.[bayes]'", exit_code=1) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._failed = optuna.trial.TrialState.FAIL
        self._study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(seed=_SEED), direction="maximize" if sweep.maximize else "minimize"
        )
        self._parameters = sweep.parameters

    def propose(self) -> tuple[Any, Values]:
        """Return a trial, to be passed to `learn`, and its values."""
        trial = self._study.ask()
        values: Values = {}
        for name, parameter in self._parameters.items():
            if len(parameter.values) == 1:
                values[name] = parameter.values[0]
            elif parameter.values:
                index = trial.suggest_categorical(name, range(len(parameter.values)))
                values[name] = parameter.values[index]
            else:  # any distribution is uniform in its own quantiles
                values[name] = _value(parameter, trial.suggest_float(name, 0.0, 1.0 - 1e-12))
        return trial, values

    def learn(self, trial: Any, result: float | None) -> None:
        """Take the metric of a trial's runs; None where they failed."""
        if result is None:
            self._study.tell(trial, state=self._failed)
        else:
            self._study.tell(trial, result)
