"""Which hyper-parameters of a search mattered: fANOVA and PED-ANOVA, out of a table of trials.

Optuna's evaluators, on a study in memory that is rebuilt from the trials' values alone.
"""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import optuna
import pandas as pd
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.importance import (
    BaseImportanceEvaluator,
    FanovaImportanceEvaluator,
    PedAnovaImportanceEvaluator,
    get_param_importances,
)
from optuna.trial import create_trial

from losslab.errors import BadInput

Method = Literal["fanova", "ped-anova"]
TREES = 32  # of fANOVA's forest: Optuna's 64 take twice as long
#: Complete trials below which a method is refused. fANOVA's forest splits nothing sensible out of
#: fewer; PED-ANOVA compares the best tenth with the rest and wants five trials in it.
FEWEST: dict[Method, int] = {"fanova": 10, "ped-anova": 50}


def importances(
    params: pd.DataFrame,
    values: pd.Series,
    spaces: Mapping[str, Mapping[str, Any]],
    *,
    maximize: bool = True,
    method: Method = "fanova",
    seed: int = 0,
) -> pd.Series:
    """Each hyper-parameter's importance in one arm's search; they add up to 1, the largest first.

    `params` has one row per complete trial and one column per hyper-parameter, `values` their
    objective, `spaces` a mapping for each column as study.json writes it: `low`, `high`, `scale`
    and `integer`, or `choices`. `method` fanova (Hutter, Hoos, Leyton-Brown 2014): the share of the
    objective's variance over the whole space that a hyper-parameter alone explains, by a random
    forest seeded with `seed`. ped-anova (Watanabe, Bansal, Hutter 2023): how much the best tenth of
    the trials is told apart by it. Both say what mattered within the searched ranges alone.

    `BadInput` with fewer trials than `FEWEST`, fewer than two hyper-parameters that vary, or where
    all trials reached the same value.

    >>> params = pd.DataFrame({"lr": [i / 20 for i in range(20)], "decay": [0.0, 1.0] * 10})
    >>> spaces = {"lr": {"low": 0, "high": 1}, "decay": {"low": 0, "high": 1}}
    >>> importances(params, params["lr"] ** 2, spaces).index[0]
    'lr'
    """
    names = [name for name in params if name in spaces and len(set(params[name].astype(str))) > 1]
    whole = params[names].notna().all(axis=1) & values.notna()
    params, values = params.loc[whole, names], values[whole]
    if len(params) < FEWEST[method]:
        raise BadInput(
            f"importances by {method} need {FEWEST[method]} complete trials or more, "
            f"got {len(params)}: raise search.trials"
        )
    if len(names) < 2:
        raise BadInput("importances need two hyper-parameters or more that vary")
    if values.nunique() < 2:
        raise BadInput("importances need trials that differ: all reached the same value")
    study = _study(params, values, {name: _distribution(spaces[name]) for name in names}, maximize)
    evaluator: BaseImportanceEvaluator = (
        FanovaImportanceEvaluator(n_trees=TREES, seed=seed)
        if method == "fanova"
        else PedAnovaImportanceEvaluator()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_param_importances(study, evaluator=evaluator, params=names)
    return pd.Series(found, name="importance").sort_values(ascending=False, kind="stable")


def _study(
    params: pd.DataFrame,
    values: pd.Series,
    distributions: Mapping[str, BaseDistribution],
    maximize: bool,
) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize" if maximize else "minimize")
    rows = params.to_dict("records")
    study.add_trials(
        [
            create_trial(
                value=float(value),
                params={name: _internal(row[name], distributions[name]) for name in row},
                distributions=dict(distributions),
            )
            for row, value in zip(rows, values, strict=True)
        ]
    )
    return study


def _distribution(space: Mapping[str, Any]) -> BaseDistribution:
    """Choices as text: a list is no Optuna choice, and 1 and True would be the same one."""
    if "choices" in space:
        return CategoricalDistribution([str(choice) for choice in space["choices"]])
    log = space.get("scale") == "log"
    if space.get("integer"):
        return IntDistribution(int(space["low"]), int(space["high"]), log=log)
    return FloatDistribution(float(space["low"]), float(space["high"]), log=log)


def _internal(value: Any, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return str(value)
    if isinstance(distribution, IntDistribution):
        return int(value)
    assert isinstance(distribution, FloatDistribution)
    return min(max(float(value), distribution.low), distribution.high)
