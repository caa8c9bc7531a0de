"""Workers that die, hang, raise or are killed: every piece ends, and no process is left."""

import contextlib
import errno
import importlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest

from losslab.errors import BadInput, LosslabError
from losslab.experiments import attempts
from losslab.experiments.attempts import ATTEMPTS
from losslab.experiments.executors import InProcess, LocalProcesses, make_executor


@pytest.fixture
def fake(monkeypatch):
    """The module of fake pieces, which workers find too."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("fake_work")


@pytest.fixture
def pieces(fake, tmp_path):
    """Makes fake pieces, one for each word."""

    def make(*words, time_limit=None):
        return [fake.Fake(word, tmp_path / f"{n}", time_limit) for n, word in enumerate(words)]

    return make


@pytest.fixture
def pool(fake):
    """Makes pools; at the end they are closed, and no worker lives."""
    pools = []

    def make(workers=2):
        pools.append(LocalProcesses(workers, work=fake.work))
        return pools[-1]

    yield make
    for each in pools:
        each.close()
    assert workers_alive() == []


def workers_alive():
    """The processes that the server has forked and that live."""
    server = forkserver._forkserver._forkserver_pid
    with contextlib.suppress(FileNotFoundError):
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        return [int(pid) for pid in children if lives(int(pid))]
    return []


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def names(count):
    return {n: [f"{n}"] for n in range(count)}


# The usual way


def test_pieces_begin_in_order_and_workers_stay(pool, pieces, tmp_path):
    workers, given = pool(2), pieces(*["nap"] * 6)
    assert dict(workers.run(given)) == names(6)
    assert len({pid for piece in given for pid in piece.begun}) == 2
    assert dict(workers.run([])) == {}
    (tmp_path / "order").unlink()
    assert [index for index, _ in pool(1).run(given)] == list(range(6))
    assert (tmp_path / "order").read_text().split() == [f"{n}" for n in range(6)]


def test_results_come_as_they_are_done(pool, pieces):
    found = [index for index, _ in pool(2).run(pieces("wait_for_the_third", "name", "nap"))]
    assert found[0] == 1


def test_a_large_result_arrives_whole(pool, pieces):
    assert [len(result[0]) for _, result in pool(2).run(pieces("large", "large"))] == [10**7] * 2


def test_one_worker_is_this_process_unless_time_is_limited():
    assert isinstance(make_executor(1), InProcess)
    assert isinstance(make_executor(1, time_limited=True), LocalProcesses)
    assert isinstance(make_executor(2), LocalProcesses)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "--workers: must be at least 1, got 0"),
        ({"address": "here:6379"}, "--address: is for --executor ray only"),
        ({"gpus_per_task": 0.5}, "--gpus-per-task: is for --executor ray only"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(BadInput, match=message):
        make_executor(**arguments)


def test_ray_that_is_not_installed_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadInput, match=r"ray is not installed; pip install 'losslab\[ray\]'"):
        make_executor(kind="ray")


# Workers that die


@pytest.mark.parametrize("death", ["exit_once", "killed_once"])
def test_a_worker_that_dies_is_replaced_and_its_piece_alone_done_again(death, pool, pieces):
    given = pieces("nap", death, "nap", "nap")
    workers = pool(2)
    assert dict(workers.run(given)) == names(4)
    assert [len(piece.begun) for piece in given] == [1, 2, 1, 1]
    assert dict(workers.run(given)) == names(4)  # the pool is whole again


def test_all_workers_may_die_at_once(pool, pieces):
    given = pieces(*["killed_once"] * 6)
    assert dict(pool(3).run(given)) == names(6)
    assert [len(piece.begun) for piece in given] == [2] * 6


def test_a_piece_that_always_kills_its_worker_ends_with_an_error(pool, pieces):
    given = pieces("always_exit", "hang")
    with pytest.raises(LosslabError, match=r"died 3 times in a row.*exit code 7"):
        list(pool(2).run(given))
    assert len(given[0].begun) == ATTEMPTS
    assert workers_alive() == []  # the other piece was stopped


def test_a_worker_may_die_between_two_pieces(pool, pieces):
    workers, given = pool(1), pieces("die_when_idle", "name")
    running = workers.run(given)
    assert next(running) == (0, ["0"])
    assert dict(running) == {1: ["1"]}
    first = pieces("die_when_idle")
    assert dict(workers.run(first)) == names(1)
    wait_until(lambda: not lives(first[0].begun[-1]))
    assert dict(workers.run(first)) == names(1)


def test_the_server_that_workers_are_forked_from_may_die(pool, pieces):
    workers = pool(2)
    given = pieces("hang", "hang", time_limit=3.0)

    def kill():
        wait_until(lambda: all(piece.begun for piece in given))
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert dict(workers.run(given)) == {0: None, 1: None}
    killer.join()
    assert [len(piece.begun) for piece in given] == [2, 2]
    begun = [pid for piece in given for pid in piece.begun]
    wait_until(lambda: not any(lives(pid) for pid in begun))
    assert dict(workers.run(pieces("name", "name"))) == names(2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_workers_killed_at_any_moment_lose_nothing(seed, pool, pieces, monkeypatch):
    """While they start, work, answer or wait, with time limits that pass and that do not."""
    monkeypatch.setattr(attempts, "ATTEMPTS", 10**6)
    random_moments, stop = random.Random(seed), threading.Event()

    def kill():
        for _ in range(40):
            if stop.wait(random_moments.uniform(0, 0.1)):
                return
            alive = workers_alive()
            for pid in random_moments.sample(alive, min(2, len(alive))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    workers = pool(3)
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        for _ in range(3):
            given = pieces(*["name", "nap", "exit_once", "large"] * 20, time_limit=5.0)
            found = {index: result[0][:2] for index, result in workers.run(given)}
            assert found == {n: "xx" if n % 4 == 3 else f"{n}" for n in range(80)}
    finally:
        stop.set()
        killer.join()


# Work that takes too long


def test_a_piece_out_of_time_is_stopped_and_the_others_go_on(pool, pieces, tmp_path):
    workers = pool(2)
    given = [*pieces("hang", time_limit=1.0), *pieces("name", *["nap"] * 4)[1:]]
    began = time.monotonic()
    found = dict(workers.run(given))
    assert 1.0 <= time.monotonic() - began < 10
    assert found == {0: None, **{n: [f"{n}"] for n in range(1, 5)}}
    assert [len(piece.begun) for piece in given] == [1] * 5
    assert not lives(given[0].begun[0])
    assert not list(tmp_path.glob(".*.part"))
    assert dict(workers.run(pieces("name", "name"))) == names(2)


def test_the_limit_counts_from_a_pieces_own_beginning(pool, pieces):
    given = pieces(*["nap"] * 30, time_limit=1.2)  # 1.5 s in all
    assert dict(pool(1).run(given)) == names(30)


# Work that raises


@pytest.mark.parametrize(
    ("word", "kind", "message"),
    [
        ("bad_input", BadInput, "2 mistakes"),
        ("full_disk", OSError, "No space left"),
        ("not_picklable", LosslabError, "NotPicklable: broken"),
    ],
)
def test_what_the_work_raises_reaches_the_driver(word, kind, message, pool, pieces):
    workers = pool(2)
    given = pieces("hang", word)
    with pytest.raises(kind, match=message) as caught:
        list(workers.run(given))
    assert all(not lives(pid) for pid in given[0].begun)
    if word == "bad_input":
        assert caught.value.problems == ["one", "two"]
        assert "fake_work.py" in caught.value.__notes__[0]  # where in the worker
    if word == "full_disk":
        assert caught.value.errno == errno.ENOSPC
    assert dict(workers.run(pieces("name"))) == names(1)


# Drivers that stop


def test_a_driver_that_loses_interest_stops_what_is_under_way(pool, pieces):
    given = pieces("name", "hang")
    running = pool(2).run(given)
    assert next(running) == (0, ["0"])
    wait_until(lambda: given[1].begun)
    running.close()
    assert not lives(given[1].begun[0])


def test_ctrl_c_does_not_wait_for_the_work_that_is_under_way(pool, pieces):
    given = pieces("hang")

    def interrupt():
        wait_until(lambda: given[0].begun)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(pool(1).run(given))
    assert time.monotonic() - began < 10


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from fake_work import Fake, work
from losslab.experiments.local_workers import LocalProcesses
pieces = [Fake({what!r}, Path({place!r}) / str(n)) for n in range(2)]
workers = LocalProcesses(2, work=work)
print(sorted(workers.run(pieces)), flush=True)
"""


def script(place, what):
    """A script without `if __name__ == "__main__"`, and without `close`."""
    file = place / "script.py"
    file.write_text(SCRIPT.format(tests=str(Path(__file__).parent), what=what, place=str(place)))
    return [sys.executable, str(file)]


def test_a_script_needs_no_guard_and_need_not_close(tmp_path):
    done = subprocess.run(
        script(tmp_path, "name"), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[(0, ['0']), (1, ['1'])]\n"


def test_workers_end_when_their_driver_is_killed(tmp_path, fake):
    driver = subprocess.Popen(script(tmp_path, "hang"))
    given = [fake.Fake("hang", tmp_path / f"{n}") for n in range(2)]
    wait_until(lambda: all(piece.begun for piece in given), 60)
    driver.kill()
    driver.wait()
    wait_until(lambda: not any(lives(pid) for piece in given for pid in piece.begun), 2)
