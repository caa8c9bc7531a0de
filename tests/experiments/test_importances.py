"""Importances against variance shares known in closed form."""

import numpy as np
import pandas as pd
import pytest

from losslab.errors import BadInput
from losslab.experiments.importances import FEWEST, importances

UNIT = {"low": 0.0, "high": 1.0, "scale": "linear"}


def _trials(n, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(rng.random((n, 3)), columns=["a", "b", "c"])


@pytest.mark.parametrize("maximize", [True, False])
def test_fanova_is_the_share_of_the_variance(maximize):
    # f = 2a + b with independent uniform a and b: variances 4/12 and 1/12
    params = _trials(150)
    found = importances(
        params, 2 * params["a"] + params["b"], dict.fromkeys("abc", UNIT), maximize=maximize
    )
    assert list(found.index) == ["a", "b", "c"]
    assert found.sum() == pytest.approx(1)
    assert found["a"] == pytest.approx(0.8, abs=0.07)
    assert found["b"] == pytest.approx(0.2, abs=0.07)


def test_ped_anova_looks_at_the_best_trials():
    params = _trials(200)
    value = -((params["a"] - 0.9) ** 2) + 0.01 * params["b"]
    for maximize, sign in ((True, 1), (False, -1)):
        found = importances(
            params, sign * value, dict.fromkeys("abc", UNIT), maximize=maximize, method="ped-anova"
        )
        assert found.index[0] == "a"
        assert found["a"] > 0.8


def test_log_scales_integers_and_choices():
    rng = np.random.default_rng(1)
    params = pd.DataFrame({"lr": 10 ** rng.uniform(-5, -1, 60), "layers": rng.integers(1, 5, 60)})
    params["widths"] = [[4] if i % 2 else [8, 8] for i in range(60)]
    params["norm"] = [bool(i % 3) for i in range(60)]
    spaces = {
        "lr": {"low": 1e-5, "high": 1e-1, "scale": "log"},
        "layers": {"low": 1, "high": 4, "integer": True},
        "widths": {"choices": [[4], [8, 8]]},
        "norm": {"choices": [True, False]},
    }
    found = importances(params, np.log10(params["lr"]), spaces)
    assert found.index[0] == "lr"
    assert found["lr"] > 0.9
    assert importances(params, 1.0 * params["norm"], spaces).index[0] == "norm"


def test_the_seed_decides_and_nothing_else():
    params = _trials(30)
    value, spaces = params["a"] * params["b"], dict.fromkeys("abc", UNIT)
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    first = importances(params, value, spaces, seed=3)
    assert first.equals(importances(params, value, spaces, seed=3))
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


@pytest.mark.parametrize(
    ("count", "columns", "value", "method", "message"),
    [
        (9, "abc", "a", "fanova", "10 complete trials or more, got 9"),
        (49, "abc", "a", "ped-anova", "50 complete trials or more, got 49"),
        (20, "a", "a", "fanova", "two hyper-parameters"),
        (20, "abc", None, "fanova", "the same value"),
    ],
)
def test_refused_with_a_reason(count, columns, value, method, message):
    params = _trials(count)
    values = params[value] if value else pd.Series(np.ones(count))
    with pytest.raises(BadInput, match=message):
        importances(params[list(columns)], values, dict.fromkeys("abc", UNIT), method=method)


def test_rows_with_gaps_do_not_count():
    params = _trials(FEWEST["fanova"])
    params.loc[0, "a"] = np.nan
    with pytest.raises(BadInput, match="got 9"):
        importances(params, params["b"], dict.fromkeys("abc", UNIT))
