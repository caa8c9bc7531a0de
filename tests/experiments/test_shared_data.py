"""Splits that workers map instead of building them: the same bits, whole or not there at all."""

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from losslab.datasets.base import Split
from losslab.experiments import data
from losslab.experiments.config import load_study
from losslab.experiments.data import Facts, Laid, Need, held_out, lay_out, needs_of, run_data
from losslab.experiments.local_workers import LocalProcesses
from losslab.experiments.preflight import first_job
from losslab.experiments.shared_data import SharedData, mapped_from, place, read, write
from losslab.experiments.work import Member, Piece, do

OPTIONS = [
    {"name": "clusters", "examples": 300, "dimensions": 3},
    {"name": "digits", "as_images": True},
    {"name": "anchors", "anchors": 500, "background_per_foreground": 100},
]


@pytest.fixture(autouse=True)
def fresh_caches():
    """Every test builds or maps anew, and leaves nothing behind."""
    yield
    data.take_from(None)
    data._run_data.cache_clear()


def loaded(options):
    data._run_data.cache_clear()
    run = run_data(options, 0, 5, "cpu")
    test, digest = held_out(options, 0, 5, "cpu")
    return run, test, digest


def same(a, b):
    return a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options["name"])
def test_mapped_splits_are_the_built_ones(options, tmp_path, monkeypatch):
    built, built_test, built_digest = loaded(options)
    for need in needs_of(options, 0, 5, judged=True):
        write(tmp_path, need, lay_out(need))
    data.take_from(mapped_from(tmp_path))
    monkeypatch.setattr(data, "lay_out", None)  # nothing may be built now
    mapped, test, digest = loaded(options)
    for one, other in (
        (mapped.train, built.train),
        (mapped.validation, built.validation),
        (test, built_test),
    ):
        assert same(one.features, other.features)
        assert same(one.targets, other.targets)
        assert np.array_equal(one.ids, other.ids)
        assert one.features.data_ptr() % 64 == other.features.data_ptr() % 64 == 0
    assert np.array_equal(mapped.class_counts, built.class_counts)
    assert mapped.class_counts.dtype == built.class_counts.dtype
    assert (mapped.pairing, digest, mapped.dataset) == (
        built.pairing, built_digest, built.dataset
    )  # fmt: skip


def test_columns_first_become_rows_first_either_way(tmp_path):
    need = Need('{"name": "nobody"}', 0, 0, "fit")
    features = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(4, 3))
    split = Split(features, np.arange(4), np.arange(4))
    laid = Laid(Facts("classification", ["a", "b"]), {"train": split}, {"train": "x"})
    write(tmp_path, need, laid)
    built = data._on_device(split, "cpu")
    mapped = data._on_device(read(tmp_path, need).splits["train"], "cpu")
    assert same(built.features, mapped.features)
    assert built.features.is_contiguous()


def test_what_a_training_writes_to_its_data_reaches_nobody(tmp_path):
    (need,) = needs_of(OPTIONS[0], 0, 5, judged=False)
    write(tmp_path, need, lay_out(need))
    data.take_from(mapped_from(tmp_path))
    run, *_ = loaded(OPTIONS[0])
    run.train.features.zero_()
    again, *_ = loaded(OPTIONS[0])
    assert again.train.features.any()


@pytest.mark.parametrize("missing", ["about.json", "train-features.npy", "everything"])
def test_what_is_not_whole_is_built(missing, tmp_path):
    (need,) = needs_of(OPTIONS[0], 0, 5, judged=False)
    built, *_ = loaded(OPTIONS[0])
    write(tmp_path, need, lay_out(need))
    if missing == "everything":
        shutil.rmtree(tmp_path)
    else:
        (place(tmp_path, need) / missing).unlink()
    data.take_from(mapped_from(tmp_path))
    assert read(tmp_path, need) is None
    assert same(loaded(OPTIONS[0])[0].train.features, built.train.features)


def test_a_write_that_is_cut_short_leaves_nothing_to_read(tmp_path, monkeypatch):
    (need,) = needs_of(OPTIONS[0], 0, 5, judged=False)
    calls, save = [], np.save

    def full(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        save(*args, **kwargs)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, need, lay_out(need))
    assert list(tmp_path.iterdir()) == []
    # and the driver goes on without: its workers build
    calls.clear()
    shared = SharedData(tmp_path)
    shared.provide(piece(OPTIONS[0], tmp_path))
    assert list(tmp_path.iterdir()) == []


def piece(options, folder, seed=0, **member):
    study = load_study({"study": "x", "seed": seed, "dataset": options, "arms": ["ce"]})
    job = first_job(study, next(iter(study.arms.values())), "cpu")
    return Piece((Member(job, **member),), "plain", 1, folder / "state.pt")


def test_only_what_is_needed_is_written_and_the_oldest_goes_first(tmp_path):
    folder = tmp_path / "data"
    shared = SharedData(folder, limit_bytes=20_000)
    shared.provide(piece(OPTIONS[0], tmp_path))
    assert not list(folder.glob("*/test-*"))  # nobody is judged
    (first,) = folder.iterdir()
    shared.provide(piece(OPTIONS[0], tmp_path, outputs=tmp_path / "run"))
    assert len(list(folder.glob("*/test-*"))) == 3
    for seed in range(1, 4):
        shared.provide(piece(OPTIONS[0], tmp_path, seed))
    assert not first.exists()
    assert len(list(folder.iterdir())) < 5
    shared.close()
    assert not folder.exists()


def test_closing_leaves_another_drivers_folder_alone(tmp_path):
    other = SharedData(tmp_path / "data")
    other.provide(piece(OPTIONS[0], tmp_path))
    SharedData(tmp_path / "data").close()
    assert (tmp_path / "data").exists()


def test_workers_map_and_build_nothing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    load = importlib.import_module("fake_work").load
    given = piece(OPTIONS[1], tmp_path)
    found = {}
    for shared in (None, SharedData(tmp_path / "data")):
        pool = LocalProcesses(1, work=load, shared=shared)
        ((_, (result,)),) = pool.run([given])
        pool.close()
        found[shared is not None] = result
    assert found[True][0] == found[False][0]
    assert found[False][1:] == (False, True)
    assert found[True][1:] == (True, False)
    assert not (tmp_path / "data").exists()


def test_results_equal_those_of_this_process(tmp_path):
    contents = []
    for shared in (False, True):
        place = tmp_path / str(shared)
        place.mkdir()
        given = piece(OPTIONS[1], place, outputs=place / "run")
        if shared:
            pool = LocalProcesses(2, shared=SharedData(tmp_path / "data"))
            assert [index for index, _ in pool.run([given])] == [0]
            pool.close()
        else:
            do(given)
        contents.append({file.name: file.read_bytes() for file in place.glob("run.*")})
    assert len(contents[0]) == 2
    assert contents[0] == contents[1]
