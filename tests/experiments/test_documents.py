"""What the documents show is run as it stands there."""

import re
from pathlib import Path

from losslab import run_study

DOCS = Path(__file__).parents[2] / "docs"


def test_the_dataset_of_the_document_runs_a_study(tmp_path, home, monkeypatch, tiny, no_report):
    (code,) = re.findall(
        r"```python\n(# my_data\.py.*?)```", (DOCS / "datasets.md").read_text(), re.S
    )
    (tmp_path / "my_data.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    frames = run_study({**tiny, "dataset": {"name": "my_data:build", "rows": 300}}, home=home)
    assert frames.study["dataset"]["splits"]["test"]["examples"] == 105
    assert len(frames.confirmation) == 8
