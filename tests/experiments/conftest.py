import json
import shutil

import numpy as np
import pytest
from PIL import Image

from losslab import run_study
from losslab.experiments import tracking
from losslab.experiments.local_store import follow_home, local_store
from losslab.experiments.tracking import quiet_mlflow
from losslab.experiments.tracking_sqlite import LocalClientStore, SqliteStore


def tiny_study():
    return {
        "study": "tiny",
        "dataset": {
            "name": "clusters",
            "examples": 300,
            "validation_examples": 200,
            "test_examples": 200,
            "imbalance_ratio": 5,
            "dimensions": 4,
        },
        "model": {"name": "mlp", "hidden": [4]},
        "training": {"epochs": 4, "batch_size": 64},
        "arms": ["ce", "focal"],
        "search": {"trials": 7, "generation": 3, "select": {"best": 1, "seeds": 1}},
        "confirm": {"seeds": 2},
    }


@pytest.fixture(scope="session")
def cells(tmp_path_factory):
    """A folder in VOC's layout as that of `bccd`: lists of splits, three classes, one flat box."""
    root = tmp_path_factory.mktemp("cells")
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    lists = {"train": range(12), "val": range(12, 18), "test": range(18, 24)}
    for name, rows in lists.items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{i}\n" for i in rows))
    box = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
    places = {"RBC": (1, 1, 32, 40), "WBC": (33, 9, 80, 64), "Platelets": (5, 45, 20, 60)}
    for i in range(24):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{i}.jpg")
        boxes = {**places, "RBC": (7, 7, 7, 7)} if i == 3 else places
        objects = "".join(
            f"<object><name>{name}</name>{box.format(*corners)}</object>"
            for name, corners in boxes.items()
        )
        size = "<size><width>80</width><height>64</height></size>"
        text = f"<annotation>{size}{objects}</annotation>"
        (root / "Annotations" / f"{i}.xml").write_text(text)
    return root


@pytest.fixture
def no_report(monkeypatch):
    """Tables and figures take seconds and are tested elsewhere."""
    skip_report(monkeypatch)


def skip_report(patch):
    for step in ("begin_report", "write_report_files"):
        patch.setattr(f"losslab.analysis.report.{step}", lambda *_: [])


@pytest.fixture
def tiny():
    """A complete study whose trainings take some 20 ms each."""
    return tiny_study()


@pytest.fixture(scope="session")
def finished(tmp_path_factory, migrated_store):
    """The home of the tiny study, run once to its end; to be read only."""
    place = tmp_path_factory.mktemp("finished") / "home"
    place.mkdir()
    shutil.copy(migrated_store, place / "mlflow.db")
    run_study(tiny_study(), home=place)
    return place


@pytest.fixture(scope="session")
def repeated(tmp_path_factory):
    """The folder of the tiny study with three repeats, run once to its end; to be read only."""
    study = tiny_study()
    study["search"]["repeats"] = 3
    home = tmp_path_factory.mktemp("repeated")
    with pytest.MonkeyPatch.context() as patch:
        skip_report(patch)
        run_study(study, home=home, tracking_uri="none")
    return home / "tiny"


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished study's home, to go on with."""
    from mlflow.tracking._tracking_service import utils

    place = tmp_path / "copied"
    shutil.copytree(finished, place)
    follow_home(place)
    utils._artifact_repos_cache.clear()  # it goes by run id, and the copy has the same ones
    return place


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory):
    """An empty MLflow database; creating its schema takes seconds, copying it none."""
    quiet_mlflow()
    from mlflow.tracking import MlflowClient

    home = tmp_path_factory.mktemp("store")
    MlflowClient(local_store(home)).search_experiments()
    return home / "mlflow.db"


@pytest.fixture
def new_home(tmp_path, migrated_store):
    """Makes a home folder with an empty store in it."""

    def make(name="home"):
        place = tmp_path / name
        place.mkdir()
        shutil.copy(migrated_store, place / "mlflow.db")
        return place

    return make


@pytest.fixture
def home(new_home):
    return new_home()


@pytest.fixture(params=["rows", "client"])
def way(request, monkeypatch):
    """Both ways into the local store: the class that each one calls."""
    if request.param == "rows":
        return SqliteStore
    from mlflow.tracking import MlflowClient

    monkeypatch.setattr(tracking, "open_store", LocalClientStore)
    return MlflowClient


@pytest.fixture
def outcome():
    """Reads everything a study found out, without times: what resuming must not change."""

    def read(folder):
        found = {}
        for file in sorted(folder.glob("arms/*/*.json")) + sorted(folder.glob("confirm/*/*.json")):
            content = json.loads(file.read_text())
            for key in ("seconds", "started", "ended"):
                content.pop(key, None)
            found[str(file.relative_to(folder))] = content
        return found

    return read


@pytest.fixture
def mirrored():
    """Reads all runs that MLflow holds, by key; a key that stands twice is a failure."""

    def read(home):
        from mlflow.tracking import MlflowClient

        client = MlflowClient(local_store(home))
        runs = {}
        for experiment in client.search_experiments():
            for run in client.search_runs([experiment.experiment_id], max_results=5000):
                key = run.data.tags["losslab.key"]
                assert key not in runs, f"{key} stands twice in MLflow"
                runs[key] = run
        return runs

    return read
