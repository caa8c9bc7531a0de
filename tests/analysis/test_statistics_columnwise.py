"""The functions for many columns against those for one, which are tested against scipy."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from losslab.analysis.statistics import (
    mean_interval,
    mean_intervals,
    paired_difference,
    paired_differences,
)
from losslab.errors import BadInput


@pytest.fixture
def values():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(rng.normal(0.8, 0.05, (7, 6)), columns=list("abcdef"))
    frame.loc[2:4, "b"] = np.nan
    frame["c"] = 0.25  # zero variance
    frame["d"] = np.nan
    frame.loc[1:, "e"] = np.nan
    frame.loc[0, "f"] = np.inf
    return frame


def test_means_equal_those_of_one_sample(values):
    table = mean_intervals(values, confidence=0.9)
    for name in values:
        expected = asdict(mean_interval(values[name], 0.9))
        found = table.loc[name].to_dict()
        assert found.pop("reason") == expected.pop("reason")
        assert found == pytest.approx(expected, nan_ok=True, rel=1e-12)


def test_differences_equal_those_of_one_pair(values):
    baseline = pd.DataFrame(dict.fromkeys(values, values["a"]))
    values["a"] = 0.1 + 0.2 + (values["a"] - 0.3)  # equal but for rounding
    table = paired_differences(values, baseline)
    for name in values:
        finite = values[name][np.isfinite(values[name])]
        expected = asdict(paired_difference(finite, baseline[name]))
        found = table.loc[name].to_dict()
        assert found.pop("reason") == expected.pop("reason")
        assert found == pytest.approx(expected, nan_ok=True, rel=1e-9, abs=1e-15)
    assert table.loc["a", "p"] == 1.0


def test_what_neither_side_has_is_no_pair():
    one = pd.DataFrame({"a": [1.0, np.nan, 3.0, np.nan]})
    two = pd.DataFrame({"a": [0.0, np.nan, 1.0, 5.0]})
    assert paired_differences(one, two).loc["a", ["n", "dropped"]].to_list() == [2, 1]
    with pytest.raises(BadInput, match="same index"):
        paired_differences(one, two.iloc[:2])
