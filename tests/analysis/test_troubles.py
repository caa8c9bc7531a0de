"""What diverged, was pruned or is missing adds up."""

import pandas as pd

from losslab.analysis.troubles import troubles

HOSTILE = r"a_b % & # $x$ ^ ~ \ { } γ <script>alert(1)</script> | *b* `c`"


def test_troubles_add_up(messy):
    frames = messy.frames()
    table = troubles(frames).set_index(["arm", "what", "where"])["count"]
    for arm in ("ce", HOSTILE):
        states = frames.trials.query("arm == @arm and phase == 'search'")["state"]
        for state in ("pruned", "diverged"):
            found = table.get((arm, state, "search"), pd.Series([0]))
            assert found.sum() == (states == state).sum()
    assert table[HOSTILE, "diverged", "test run, selected"].sum() == 1
    assert table[HOSTILE, "missing", "test run, selected"].sum() == 1
    assert table["never run", "missing", "test run, selected"].sum() == 5
    assert table["never run", "unfinished", "search"].sum() == 1


def test_reasons_that_differ_in_their_epoch_are_one(study):
    writer = study({"ce": 0.0}, seeds=1, trials=1)
    writer.build()
    for trial, epoch in ((1, 3), (2, 9)):
        why = f"training loss is nan in epoch {epoch}"
        record = writer.record("ce", "search", key=f"x/{trial}", trial=trial, state="diverged",
                               reason=why, epochs=epoch)  # fmt: skip
        writer.write(f"arms/arm-0/trial-{trial:05d}.json", record)
    (row,) = troubles(writer.frames()).query("what == 'diverged'").itertuples()
    assert (row.count, row.why) == (2, "training loss is nan (epochs 3 to 9)")
    assert row.which == "trials 1, 2"
