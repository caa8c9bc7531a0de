"""The recipe in docs/team-server.md, followed: PostgreSQL, a server with passwords, a study."""

import base64
import contextlib
import importlib.util
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow
RECIPE = Path(__file__).parents[2] / "docs" / "team-server.md"
PASSWORD, WRONG = "correct horse battery", "incorrect horse battery"


def _binaries():
    """Where PostgreSQL's programs are; Debian keeps them off the path."""
    places = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr/local/pgsql").glob("bin")]
    if found := shutil.which("initdb"):
        places.append(Path(found).resolve().parent)
    return next((place for place in places if (place / "initdb").exists()), None)


def _port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory):
    """The address of a PostgreSQL server of our own, without the database's name."""
    binaries = _binaries()
    if binaries is None or importlib.util.find_spec("psycopg") is None:
        pytest.skip("needs PostgreSQL (initdb, pg_ctl) and psycopg")
    # It refuses to run as root, and another user cannot look into pytest's folders.
    user = {}
    place = Path("/tmp") / f"losslab-postgresql-{secrets.token_hex(4)}"
    place.mkdir(mode=0o700)
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(place, nobody.pw_uid, nobody.pw_gid)
    port, secret = _port(), secrets.token_hex(8)

    def do(program, *arguments, check=True):
        command = [str(binaries / program), *arguments]
        settings = {**os.environ, "PGPASSWORD": secret}
        with (place / "output").open("a") as output:
            return subprocess.run(
                command, **user, env=settings, cwd=place, check=check, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output,
            )  # fmt: skip

    try:
        (place / "secret").write_text(secret)
        (place / "secret").chmod(0o644)
        data = str(place / "data")
        do("initdb", "-D", data, "-U", "mlflow", "-A", "scram-sha-256", "--pwfile", "secret")
        options = f"-p {port} -k {place} -c listen_addresses=127.0.0.1 -c fsync=off"
        do("pg_ctl", "-D", data, "-o", options, "-l", str(place / "log"), "-w", "start")
        for name in ("mlflow", "mlflow_auth"):
            do("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", name)
        yield f"postgresql+psycopg://mlflow:{secret}@127.0.0.1:{port}"
    finally:
        do("pg_ctl", "-D", data, "-m", "immediate", "stop", check=False)
        shutil.rmtree(place)


def _blocks():
    """The recipe's fenced blocks, by the word that each begins with."""
    blocks = re.findall(r"```\w*\n(.*?)```", RECIPE.read_text(), flags=re.DOTALL)
    return {re.split(r"[\s=]", block, maxsplit=1)[0]: block for block in blocks}


@pytest.fixture(scope="module")
def server(postgresql, tmp_path_factory):
    """The address of the recipe's server, on a port and in folders of our own."""
    if importlib.util.find_spec("flask_wtf") is None:
        pytest.skip("needs mlflow[auth]")
    place, port = tmp_path_factory.mktemp("team"), _port()
    blocks = _blocks()

    def adapted(text):
        text = text.replace("postgresql+psycopg://mlflow:PASSWORD@127.0.0.1:5432", postgresql)
        text = text.replace("/srv/mlflow", str(place)).replace("/etc/mlflow", str(place))
        return text.replace("5000", str(port))

    (place / "auth.ini").write_text(adapted(blocks["[mlflow]"]))
    told = re.findall(r"^(\w+)=(\S+)", adapted(blocks["MLFLOW_AUTH_CONFIG_PATH"]), flags=re.M)
    settings = {name: PASSWORD if value == "..." else value for name, value in told}
    assert settings["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    command = adapted(blocks["/opt/mlflow/bin/mlflow"]).split()
    with (place / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command[1:]], env={**os.environ, **settings},
            cwd=place, start_new_session=True, stdout=log, stderr=log,
        )  # fmt: skip
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            if process.poll() is not None or _status(f"{uri}/health") == 200:
                break
            time.sleep(0.2)
        assert _status(f"{uri}/health") == 200, (place / "log").read_text()[-3000:]
        yield uri
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _status(address, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _losslab(tiny, place, uri, password, user="admin"):
    file = place / "tiny.yaml"
    file.write_text(yaml.safe_dump(tiny))
    settings = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
    command = [
        sys.executable, "-m", "losslab", "run", str(file), "--home", str(place / "home"),
        "--tracking-uri", uri, "--workers", "1", "--quiet",
    ]  # fmt: skip
    began = time.monotonic()
    done = subprocess.run(
        command, env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    return done, time.monotonic() - began


def test_a_study_is_mirrored_once_and_a_wrong_password_is_told(
    tiny, server, tmp_path, monkeypatch, finished, mirrored
):
    from mlflow.tracking import MlflowClient

    done, seconds = _losslab(tiny, tmp_path, server, WRONG)
    assert done.returncode == 2, done.stderr
    assert "--tracking-uri: cannot use" in done.stderr
    assert "user name or password" in done.stderr
    assert "Traceback" not in done.stderr
    assert seconds < 30
    assert not list((tmp_path / "home").glob("tiny/arms/*/trial-*"))

    for _ in range(2):
        done, _ = _losslab(tiny, tmp_path, server, PASSWORD)
        assert done.returncode == 0, done.stderr
        assert (done.stdout, done.stderr) == ("", "")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("tiny").experiment_id
    runs = client.search_runs([experiment], max_results=1000)
    keys = [run.data.tags["losslab.key"] for run in runs]
    expected = mirrored(finished)
    assert sorted(keys) == sorted(expected)
    assert {run.info.status for run in runs} == {"FINISHED", "KILLED"} & {
        run.info.status for run in expected.values()
    }
    study = next(run for run in runs if run.data.tags["losslab.key"] == "study")
    attached = {file.path for file in client.list_artifacts(study.info.run_id)}
    assert {"study.json", "study.yaml", "report"} <= attached
    assert set(client.get_run(study.info.run_id).data.tags) == set(expected["study"].data.tags)

    account = json.dumps({"username": "ann", "password": PASSWORD}).encode()
    login = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {login}"}
    address = f"{server}/api/2.0/mlflow/users/create"
    urllib.request.urlopen(urllib.request.Request(address, account, headers)).close()
    other = tmp_path / "ann"
    other.mkdir()
    done, _ = _losslab(tiny, other, server, PASSWORD, "ann")
    assert done.returncode == 2, done.stderr
    assert "give the study another name" in done.stderr
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    assert len(client.search_runs([experiment], max_results=1000)) == len(expected)


def test_the_server_keeps_strangers_out(server):
    listing = f"{server}/api/2.0/mlflow/experiments/search?max_results=1"
    assert _status(listing) == 401
    assert _status(f"{server}/health", Host="mlflow.example.org") == 200
    assert _status(f"{listing}", Host="10.evil.example.com") == 403
