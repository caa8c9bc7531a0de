"""Work on a Ray cluster of two nodes: the same bytes, whatever dies, and no folder in common."""

import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from losslab import run_study
from losslab.errors import BadInput, LosslabError
from losslab.experiments.config import load_study
from losslab.experiments.executors import InProcess, make_executor
from losslab.experiments.preflight import first_job
from losslab.experiments.work import Member, Piece, do

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    """The address of a cluster of two nodes of one core each, whose workers live elsewhere."""
    import ray
    from ray.cluster_utils import Cluster

    from losslab.experiments import ray_workers

    ray_workers._ray()
    elsewhere = tempfile.mkdtemp(prefix="ll")  # short: sockets lie in it
    here = Path.cwd()
    os.chdir(elsewhere)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", elsewhere)
        patch.setenv("PYTHONPATH", "")
        nodes = Cluster()
        for _ in range(2):
            nodes.add_node(num_cpus=1, object_store_memory=100 << 20)
    os.chdir(here)
    yield nodes.address
    ray.shutdown()
    nodes.shutdown()
    shutil.rmtree(elsewhere, ignore_errors=True)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("fake_work")


@pytest.fixture
def pieces(fake, tmp_path):
    def make(*words, time_limit=None):
        return [
            fake.Fake(word, Path(f"/not/there/{n}"), time_limit, diary=tmp_path / f"{n}")
            for n, word in enumerate(words)
        ]

    return make


@pytest.fixture
def pool(cluster, fake):
    from losslab.experiments.ray_workers import RayCluster

    pools = []

    def make(work=fake.work, **settings):
        pools.append(RayCluster(cluster, work=work, **settings))
        return pools[-1]

    yield make
    for each in pools:
        each.close()


def names(count):
    return {n: [f"{n}"] for n in range(count)}


def test_results_equal_those_of_this_process_byte_for_byte(tiny, pool, tmp_path):
    """Two steps, so that states travel too; the second ends with outputs."""
    study = load_study(tiny)
    jobs = [first_job(study, arm, "cpu") for arm in study.arms.values()]
    contents = {}
    for name, workers in (("here", InProcess()), ("ray", pool(do))):
        place = tmp_path / name
        place.mkdir()
        half = [Piece((Member(job),), "plain", 2, place / f"half-{n}.pt") for n, job in
                enumerate(jobs)]  # fmt: skip
        whole = [
            Piece((Member(job, (piece.file, 0), place / f"run-{n}"),), "plain", 4,
                  place / f"whole-{n}.pt")
            for n, (job, piece) in enumerate(zip(jobs, half, strict=True))
        ]  # fmt: skip
        progress = [dict(workers.run(pieces)) for pieces in (half, whole)]
        found = [replace(each[n][0], seconds=0) for each in progress for n in range(len(jobs))]
        states = [torch.load(piece.file, weights_only=True)["states"][0] for piece in whole]
        weights = [state["model"] for state in states]
        outputs = {file.name: file.read_bytes() for file in place.glob("run-*")}
        assert len(outputs) == 2 * len(jobs)
        contents[name] = found, weights, outputs
    assert contents["ray"][0] == contents["here"][0]
    assert contents["ray"][2] == contents["here"][2]
    for ray_model, model in zip(contents["ray"][1], contents["here"][1], strict=True):
        assert all(torch.equal(ray_model[name], model[name]) for name in model)


def test_a_whole_study_gives_the_same_table(tiny, finished, home, cluster, outcome):
    run_study(tiny, home=home, executor="ray", address=cluster, workers=None)
    assert outcome(home / "tiny") == outcome(finished / "tiny")
    table = Path("tiny/report/tables/results.csv")
    assert (home / table).read_bytes() == (finished / table).read_bytes()


@pytest.mark.parametrize("death", ["exit_once", "killed_once"])
def test_a_worker_that_dies_is_replaced_and_its_piece_alone_done_again(death, pool, pieces):
    given = pieces("nap", death, "nap")
    assert dict(pool().run(given)) == names(3)
    assert [len(piece.begun) for piece in given] == [1, 2, 1]


def test_a_piece_that_always_kills_its_worker_ends_with_an_error(pool, pieces):
    given = pieces("always_exit")
    with pytest.raises(LosslabError, match="died 3 times in a row"):
        list(pool().run(given))
    assert len(given[0].begun) == 3


def test_a_piece_out_of_time_is_stopped_and_the_others_go_on(pool, pieces):
    given = [*pieces("hang", time_limit=1.0), *pieces("name", "nap", "nap")[1:]]
    assert dict(pool().run(given)) == {0: None, 1: ["1"], 2: ["2"]}
    (pid,) = given[0].begun
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_waiting_for_a_core_does_not_count_as_time(pool, pieces):
    given = pieces(*["nap"] * 30, time_limit=0.5)  # .75 s on two cores
    assert dict(pool().run(given)) == names(30)


def test_no_more_are_under_way_than_allowed(pool, pieces):
    given = pieces("hang", "name", time_limit=1.0)
    found = list(pool(workers=1).run(given))
    assert found == [(0, None), (1, ["1"])]


@pytest.mark.parametrize(("word", "kind"), [("bad_input", BadInput), ("full_disk", OSError)])
def test_what_the_work_raises_reaches_the_driver(word, kind, pool, pieces):
    with pytest.raises(kind) as caught:
        list(pool().run(pieces("hang", word)))
    assert "fake_work.py" in caught.value.__notes__[0]


def test_ctrl_c_cancels_what_is_under_way(pool, pieces):
    given = pieces("hang")

    def interrupt():
        while not given[0].begun:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        list(pool().run(given))
    deadline = time.monotonic() + 10
    while Path(f"/proc/{given[0].begun[0]}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense", "ray://127.0.0.1:10001"])
def test_an_address_that_does_not_answer_is_told_in_seconds(address):
    began = time.monotonic()
    with pytest.raises(BadInput, match="^--address: .*" + address):
        make_executor(kind="ray", address=address)
    assert time.monotonic() - began < 10


def test_an_address_where_something_else_answers_is_told_in_one_line():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        command = [sys.executable, "-m", "losslab", "run", "quickstart", "--executor", "ray"]
        done = subprocess.run(
            [*command, "--address", address], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 2
    assert done.stderr.startswith(f"losslab: --address: no Ray cluster answers at {address} (what ")
    assert done.stderr.count("\n") == 1
