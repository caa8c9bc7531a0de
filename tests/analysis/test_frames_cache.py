"""What the cache of frames gives back, and what it never does."""

import numpy as np

from losslab.analysis.frames.cache import Cache, open_cache
from losslab.analysis.frames.runs import Run
from losslab.experiments.run_parts import history_of


def test_the_cache_gives_back_what_it_was_given(tmp_path):
    two = [{"epoch": 1, "x": 0.1}, {"epoch": 2}]
    runs = [
        Run("a", "1", {"key": "é", "value": None}, history_of(two)),
        Run("b", "1", {"key": "b"}, history_of([{"epoch": 1, "y": 1e300}])),
        Run("c", "1", {"ids": ["a"]}),
        Run("d", "1", {"key": "d"}, history_of([])),
    ]  # fmt: skip
    cache = Cache(tmp_path)
    for run in runs:
        cache.add(run)
    cache.save()
    again = Cache(tmp_path)
    assert again.find("a", "2") is None
    a, b, c, d = (again.find(run.id, "1") for run in runs)
    assert a.record == {"key": "é", "value": None}
    assert c.record == {"ids": ["a"]}
    assert c.history is None
    assert d.history is None
    by_name = dict(zip(a.history.columns, a.history.values.T.tolist(), strict=True))
    assert by_name["epoch"] == [1, 2]
    assert by_name["x"][0] == 0.1
    assert np.isnan(by_name["x"][1])
    assert np.isnan(by_name["y"]).all()
    assert b.history.values[0, b.history.columns.index("y")] == 1e300


def test_a_damaged_or_foreign_file_is_removed_and_nothing_wrong_is_given(tmp_path):
    cache = Cache(tmp_path)
    cache.add(Run("a", "1", {"key": "a"}, history_of([{"epoch": 1, "x": 0.5}])))
    cache.save()
    (file,) = tmp_path.glob("*.parquet")
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], whole[: len(whole) // 2], whole.replace(b"PAR1", b"PAR2")):
        file.write_bytes(damaged)
        assert Cache(tmp_path).find("a", "1") is None
        assert not file.exists()
    (tmp_path / ".x.parquet.123.part").write_bytes(whole[:50])
    assert Cache(tmp_path).find("a", "1") is None


def test_many_small_files_are_merged_and_what_is_not_used_is_left_out(tmp_path):
    for number in range(30):
        cache = Cache(tmp_path)
        for past in range(max(0, number - 3), number):
            assert cache.find(str(past), "1"), (number, past)
        cache.add(Run(str(number), "1", {"n": number}))
        cache.save()
    files = list(tmp_path.glob("*.parquet"))
    assert len(files) <= 9
    assert len(Cache(tmp_path)._known) < 20


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file" / "cache")
    cache.add(Run("a", "1", {}))
    cache.save()


def test_the_cache_is_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("LOSSLAB_CACHE", str(tmp_path / "own"))
    assert open_cache(True, "x", "y").place.is_relative_to(tmp_path / "own")
    monkeypatch.delenv("LOSSLAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert open_cache(True, "x", "y").place.is_relative_to(tmp_path / "xdg" / "losslab")
    assert open_cache(tmp_path, "x", "y").place.is_relative_to(tmp_path)
    assert open_cache(tmp_path, "x", "y").place != open_cache(tmp_path, "z", "y").place
    assert open_cache(False, "x", "y").place is None
