"""Ready-made views of a study for the MLflow UI: which columns and charts are shown.

The UI keeps a shared view as an experiment tag `mlflow.sharedViewState.<key>` holding its state as
JSON, and opens it by `viewStateShareKey=<key>` in the address. Two are made for every study:
`test`, the confirmation runs as a table, and `search`, the trials as charts.
"""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

TAG = "mlflow.sharedViewState."
# The UI's own switch between training and language-model work; it belongs to the experiment.
KIND_TAGS = {"mlflow.experimentKind": "custom_model_development"}


def view_tags(study: Mapping[str, Any]) -> dict[str, str]:
    """The experiment tags that hold a study's views; `study` is the content of study.json."""
    views = {"test": _test_view(study), "search": _search_view(study)}
    return {**KIND_TAGS, **{TAG + key: json.dumps(view) for key, view in views.items()}}


def view_address(base: str, experiment_id: str, view: str, charts: bool) -> str:
    """The address of a view, such as http://127.0.0.1:5000/#/experiments/1/runs?..."""
    mode = "CHART" if charts else "TABLE"
    return (
        f"{base}/#/experiments/{quote(experiment_id)}/runs?workflowType=machine_learning"
        f"&compareRunsMode={mode}&viewStateShareKey={view}"
    )


def logarithmic_paths(study: Mapping[str, Any], arm: str) -> set[str]:
    """The paths that an arm searches on a logarithmic scale."""
    spaces = study["arms"].get(arm, {}).get("space", {})
    return {path for path, space in spaces.items() if space.get("scale") == "log"}


def _searched(study: Mapping[str, Any]) -> list[str]:
    """The short names of everything that any arm searches, the learning rate first."""
    names = {path.split(".")[-1] for arm in study["arms"].values() for path in arm["space"]}
    return sorted(names, key=lambda name: (name != "learning_rate", name))


def _axes(study: Mapping[str, Any]) -> list[str]:
    """The same names as chart axes: logarithms where the scale is logarithmic."""
    logarithmic = {
        path.split(".")[-1] for arm in study["arms"] for path in logarithmic_paths(study, arm)
    }
    return [f"log10_{name}" if name in logarithmic else name for name in _searched(study)]


def _test_view(study: Mapping[str, Any]) -> dict[str, Any]:
    primary, decision = study["primary"], study["decision"]
    metrics = [f"test/{primary}", f"test/{decision}", f"test_tuned/{decision}", "objective"]
    columns = [
        "tags.`losslab.arm`",
        "tags.`losslab.variant`",
        "params.`seed`",
        *[f"metrics.`{name}`" for name in dict.fromkeys(metrics)],
        *[f"params.`{name}`" for name in _searched(study)],
    ]
    charts = [
        _chart("BAR", f"test/{primary}", metricKey=f"test/{primary}"),
        _chart("LINE", f"val/{primary}", **_line(f"val/{primary}")),
    ]
    order = {
        "orderByKey": f"metrics.`test/{primary}`",
        "orderByAsc": study["direction"] == "minimize",
    }
    return {**_state("confirm", columns, charts), **order}


def _search_view(study: Mapping[str, Any]) -> dict[str, Any]:
    primary, names = study["primary"], _axes(study)
    columns = [
        "tags.`losslab.arm`",
        "params.`trial`",
        "tags.`losslab.state`",
        "metrics.`objective`",
        *[f"params.`{name}`" for name in _searched(study)],
        "metrics.`epochs`",
        "metrics.`seconds`",
    ]
    charts = [
        _chart(
            "PARALLEL", "searched values and objective",
            selectedParams=names, selectedMetrics=["objective"], showAllRuns=False,
        ),
        *[
            _chart(
                "SCATTER", f"objective over {name}",
                xaxis={"key": name, "type": "PARAM"}, yaxis={"key": "objective", "type": "METRIC"},
            )
            for name in names
        ],
        _chart("LINE", f"val/{primary}", **_line(f"val/{primary}")),
    ]  # fmt: skip
    order = {"orderByKey": "metrics.`objective`", "orderByAsc": study["direction"] == "minimize"}
    return {**_state("search", columns, charts), **order}


def _state(phase: str, columns: list[str], charts: list[dict[str, Any]]) -> dict[str, Any]:
    section = "losslab"
    for chart in charts:
        chart["metricSectionId"] = section
    return {
        "searchFilter": f"tags.`losslab.phase` = '{phase}'",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOW_ALL",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
        "compareRunCharts": charts,
        "compareRunSections": [
            {"uuid": section, "name": "losslab", "display": True, "isReordered": False,
             "deleted": False, "isGenerated": True}
        ],
    }  # fmt: skip


def _chart(kind: str, name: str, **settings: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"{kind}-{name}",
        "displayName": name,
        "runsCountToCompare": 100,
        "isGenerated": False,
        "deleted": False,
        "useGlobalXaxisKey": True,
        **settings,
    }


def _line(metric: str) -> dict[str, Any]:
    return {
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "xAxisKey": "step",
        "scaleType": "linear",
        "lineSmoothness": 0,
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
    }
