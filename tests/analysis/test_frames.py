import json
import subprocess
import sys

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from losslab.analysis.frames import frames_from_folder, frames_from_mlflow, read_records
from losslab.errors import BadInput


def test_frames_hold_every_record(study):
    writer = study()
    frames = frames_from_folder(writer.build())
    assert len(frames.trials) == 3 * (8 + 1)
    assert len(frames.confirmation) == 3 * 2 * 5
    assert frames.arms == ["ce", "balanced_ce", "focal"]
    lengths = sum(len(record["history"]) for record in read_records(writer.folder))
    assert len(frames.epochs) == lengths
    record = writer.read("confirm/arm-2/selected-0003.json")
    row = frames.confirmation.query("arm == 'focal' and variant == 'selected' and seed_index == 3")
    assert row["test/average_precision"].item() == record["metrics"]["test/average_precision"]
    assert row["pairing.initial_weights"].item() == "w"
    assert frames.trials["started"].iloc[0] == pd.Timestamp(1763680000, unit="s", tz="UTC")


def test_types_do_not_depend_on_what_is_there(study):
    full = study()
    full.build()
    empty = study()
    empty.build(search=False, confirm=False)
    for name in ("trials", "confirmation", "epochs"):
        a, b = getattr(full.frames(), name), getattr(empty.frames(), name)
        assert b.empty
        assert (a.dtypes[list(b.columns)] == b.dtypes).all()


def test_ledger_counts(messy):
    ledger = messy.frames().ledger.set_index("arm")
    ce = ledger.loc["ce"]
    states = [messy.read(f"arms/arm-0/trial-{i:05d}.json")["state"] for i in range(8)]
    assert [ce[s] for s in ("complete", "pruned", "diverged")] == [
        states.count(s) for s in ("complete", "pruned", "diverged")
    ]
    assert (ce["trials"], ce["retrainings"], ce["confirmations"], ce["tuned"]) == (8, 1, 10, 2)
    assert ce["missing_confirmations"] == 0
    assert ce["seconds"] == pytest.approx(19 * 1.5)
    assert ce["epochs"] == 6 * states.count("complete") + 2 * (8 - states.count("complete")) + 66
    assert "outer 5 %" in ce["flags"]
    hostile = ledger.iloc[1]
    assert (hostile["diverged_confirmations"], hostile["missing_confirmations"]) == (1, 1)
    assert ledger.loc["never run", "missing_confirmations"] == 10


def test_an_unreadable_record_is_named(study):
    writer = study()
    writer.build()
    (writer.folder / "arms/arm-0/trial-00001.json").write_text('{"key": ')
    with pytest.raises(BadInput, match=r"trial-00001\.json cannot be read"):
        writer.frames()
    with pytest.raises(BadInput, match=r"study\.json"):
        frames_from_folder(writer.folder / "arms")


def _mirror(writer, uri, name, left_out):
    """Writes the study to MLflow as `experiments/tracking.py` does."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag

    client = MlflowClient(uri)
    experiment = client.create_experiment(name)

    def run(tags, history=(), metrics=None, epochs=0):
        created = client.create_run(experiment, tags=tags).info.run_id
        points = [
            Metric(key, value, 0, line["epoch"])
            for line in history
            for key, value in line.items()
            if key != "epoch"
        ]
        points += [Metric(key, value, 1, epochs) for key, value in (metrics or {}).items()]
        client.log_batch(created, metrics=points, tags=[RunTag("losslab.version", "0.1.0")])

    run({"losslab.phase": "study", "losslab.record": json.dumps(writer.study)})
    for arm, slug in writer.slugs.items():
        selected = writer.read(f"arms/{slug}/selected.json")
        tags = {"losslab.phase": "arm", "losslab.arm": arm, "losslab.record": json.dumps(selected)}
        run(tags)
    for record in read_records(writer.folder):
        small = {k: v for k, v in record.items() if k not in left_out}
        tags = {
            "losslab.key": record["key"],
            "losslab.phase": record["phase"],
            "losslab.record": json.dumps(small, sort_keys=True),
        }
        run(tags, record["history"], record["metrics"], record["epochs"])


def test_mlflow_gives_the_same_frames(study, tmp_path):
    writer = study({"ce": 0.0, "focal": 0.02}, seeds=2, trials=3)
    writer.build()
    writer.diverge("focal", "selected", 1)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    _mirror(writer, uri, "synthetic", left_out=("history",))
    expected, found = writer.frames(), frames_from_mlflow(uri, "synthetic")
    assert found.study == expected.study
    for name in ("trials", "confirmation"):
        known = getattr(found, name)
        assert known["run_id"].str.len().eq(32).all()
        assert (getattr(expected, name)["run_id"] == "").all()
        unknown = known.assign(run_id=getattr(expected, name)["run_id"])
        assert_frame_equal(unknown, getattr(expected, name), check_exact=True)
    for name in ("ledger", "selected", "arm_table"):
        assert_frame_equal(getattr(found, name), getattr(expected, name), check_exact=True)
    # a confirmation run's last validation value is logged once more as a final: same curve
    assert_frame_equal(found.epochs, expected.epochs, check_exact=True)
    with pytest.raises(BadInput, match="no experiment 'other'"):
        frames_from_mlflow(uri, "other")
    _mirror(writer, uri, "short records", left_out=("history", "metrics"))
    short = frames_from_mlflow(uri, "short records")
    unknown = short.confirmation.assign(run_id=expected.confirmation["run_id"])
    assert_frame_equal(unknown, expected.confirmation, check_exact=True)
    assert_frame_equal(short.epochs, expected.epochs, check_exact=True)


def test_importing_frames_and_tables_is_light():
    code = (
        "import sys, losslab.analysis.tables, losslab.analysis.typeset, losslab.analysis.report; "
        "print([m for m in ('mlflow', 'torch', 'matplotlib', 'seaborn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
