"""Which row of which published table an arm of a detection study is."""

from types import SimpleNamespace

import numpy as np
import pytest

from losslab.analysis.tables.published_detection import published_rows


def _arms(**configs):
    base = {"model": {"prior_init": 0.01, "scales": 3, "aspects": None},
            "detector": {"mining": None, "box_loss": {"name": "smooth_l1"}}}  # fmt: skip
    arms = {}
    for name, changes in configs.items():
        config = {part: {**base.get(part, {}), **changes.get(part, {})}
                  for part in ("model", "detector", "loss")}  # fmt: skip
        arms[name] = {"config": config, "space": changes.get("space", {})}
    return SimpleNamespace(study={"arms": arms})


def _mined(batch, nms, ratio=None):
    mining = {"batch_size": batch, "nms_threshold": nms, "negatives_per_positive": ratio}
    return {"loss": {"name": "ce"}, "detector": {"mining": mining}}


FOCAL = {"name": "focal", "gamma": 2, "alpha": 0.25}


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        ({"a": {"loss": {"name": "balanced_ce", "alpha": 0.75}},
          "b": {"loss": {"name": "balanced_ce", "alpha": 0.999}}}, [31.1, 25.1]),
        ({"a": {"loss": FOCAL | {"gamma": 0.5}, "space": {"loss.alpha": {}}},
          "b": {"loss": FOCAL}, "ce": {"loss": {"name": "ce"}}}, [32.9, 34.0, None]),
        ({"a": {"loss": FOCAL, "model": {"scales": 2}},
          "b": {"loss": FOCAL, "model": {"scales": 1, "aspects": [1.0]}}}, [34.2, 30.3]),
        ({"a": {"loss": FOCAL}, "b": _mined(256, 0.5), "c": _mined(128, 0.5, 3),
          "d": _mined(128, 0.5, 2)}, [36.0, 31.0, 31.1, None]),
        ({"a": {"loss": FOCAL}, "b": {"loss": {"name": "focal_star", "gamma": 4, "beta": 0}},
          "c": {"loss": {"name": "ce"}}}, [34.0, 33.9, 31.1]),
        ({"a": {"loss": FOCAL}, "b": _mined(128, 0.7), "c": {"loss": {"name": "ghm_c"}},
          "d": {"loss": {"name": "ce"}}}, [35.6, 31.1, 35.8, 28.6]),
        ({"a": {"loss": {"name": "ghm_c", "bins": 10}},
          "b": {"loss": {"name": "ghm_c", "bins": 20}}}, [34.6, 35.2]),
        ({"a": {"loss": {"name": "ghm_c", "bins": 30}},
          "b": {"loss": {"name": "ghm_c", "bins": 30},
                "detector": {"box_loss": {"name": "ghm_r"}}},
          "c": {"loss": {"name": "ghm_c", "bins": 30},
                "detector": {"box_loss": {"name": "asl1"}}}}, [35.8, 36.4, 35.7]),
        # the papers' detectors have prior initialisation; a tuned gamma names no row
        ({"a": {"loss": FOCAL | {"gamma": 1}, "model": {"prior_init": False}},
          "b": {"loss": FOCAL, "space": {"loss.gamma": {}}}}, None),
    ],
)  # fmt: skip
def test_arms_find_their_published_row(arms, expected):
    found = published_rows(_arms(**arms))
    if expected is None:
        assert found.empty
        return
    values = found["published_ap"].reindex(list(arms))
    assert [None if np.isnan(v) else v for v in values] == expected
