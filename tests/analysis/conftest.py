"""Synthetic study folders, written as the runner writes them."""

import json
from pathlib import Path

import numpy as np
import pytest

from losslab.analysis.frames import frames_from_folder

START = 1763680000.0
HOSTILE = r"a_b % & # $x$ ^ ~ \ { } γ <script>alert(1)</script> | *b* `c`"


class StudyWriter:
    """Writes one study folder; every number follows from `seed`."""

    def __init__(self, folder: Path, effects: dict, *, seeds=5, trials=8, seed=0, **more):
        self.folder, self.effects, self.seeds = folder, effects, seeds
        self.rng = np.random.default_rng(seed)
        self.slugs = {arm: f"arm-{i}" for i, arm in enumerate(effects)}
        self.trials = trials
        self.study = {
            "study": more.get("name", "synthetic"),
            "question": "Does the loss matter?",
            "primary": "average_precision",
            "direction": "maximize",
            "baseline": more.get("baseline", next(iter(effects))),
            "arms": {
                arm: {
                    "slug": self.slugs[arm],
                    "summary": arm,
                    "space": {
                        "training.learning_rate": {
                            "low": 1e-4,
                            "high": 1.0,
                            "scale": "log",
                            "default": 1e-3,
                        },
                        "loss.a": {"low": 0.0, "high": 1.0, "scale": "linear", "default": 0.5},
                    },
                    **more.get("settings", {}).get(arm, {}),
                }
                for arm in effects
            },
            "seeds": seeds,
            "metrics": ["average_precision", "balanced_accuracy", "roc_auc", "log_loss", "recall"],
            "dataset": {"name": "synthetic", "task": more.get("task", "classification")},
            "version": "0.1.0",
            "git": "abc",
        }

    def write(self, path: str, content: dict) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")

    def read(self, path: str) -> dict:
        return json.loads((self.folder / path).read_text(encoding="utf-8"))

    def record(self, arm: str, phase: str, **fields) -> dict:
        state = fields.get("state", "complete")
        value = fields.get("value")
        epochs = fields.get("epochs", 6)
        return {
            "arm": arm,
            "phase": phase,
            "variant": None,
            "trial": None,
            "repeat": 0,
            "generation": 0,
            "seed_index": 0,
            "run_seed": 17,
            "reason": "" if state == "complete" else f"{state} on purpose",
            "params": {},
            "judged_epoch": epochs,
            "seconds": 1.5,
            "started": START,
            "ended": START + 1.5,
            "metrics": {},
            "pairing": {"train": "t", "validation": "v", "test": "x", "initial_weights": "w"},
            "outputs": None,
            "history": [
                {
                    "epoch": e,
                    "train/loss": 1.0 / e,
                    "val/average_precision": (value or 0.5) * (1 - 0.5**e),
                }
                for e in range(1, epochs + 1)
            ],
            **fields,
            "state": state,
            "value": value,
            "epochs": epochs,
        }

    def build(self, *, search=True, confirm=True) -> Path:
        self.write("study.json", self.study)
        for arm in self.effects:
            if search:
                self.search(arm)
            if confirm:
                self.confirm(arm)
        return self.folder

    def search(self, arm: str) -> None:
        slug = self.slugs[arm]
        values = {}
        for trial in range(self.trials):
            rate = 1e-3 if trial == 0 else float(10 ** self.rng.uniform(-4, 0))
            state = "complete" if trial == 0 or rate < 0.03 else "pruned"
            state = "diverged" if rate > 0.3 else state
            value = 0.8 - 0.05 * abs(np.log10(rate) + 2) if state != "diverged" else None
            if state == "complete":
                values[trial] = value
            params = {"training.learning_rate": rate, "loss.a": float(self.rng.uniform())}
            record = self.record(
                arm, "search", key=f"{slug}/trial-{trial:05d}", trial=trial, params=params,
                value=value, state=state, epochs=6 if state == "complete" else 2,
                generation=trial // 4,
            )  # fmt: skip
            self.write(f"arms/{slug}/trial-{trial:05d}.json", record)
        best = max(values, key=values.get)
        self.write(
            f"arms/{slug}/select-{best:05d}-1.json",
            self.record(
                arm, "select", key=f"{slug}/select-{best:05d}-1", trial=best, value=values[best],
                seed_index=1,
            ),
        )  # fmt: skip
        params = self.read(f"arms/{slug}/trial-{best:05d}.json")["params"]
        self.write(
            f"arms/{slug}/selected.json",
            {
                "trial": best,
                "params": params,
                "value": values[best],
                "candidates": [{"trial": best}],
                "flags": ["training.learning_rate is in the outer 5 % of its range"],
            },
        )

    def confirm(self, arm: str) -> None:
        for variant, shift in (("selected", 0.0), ("defaults", -0.03)):
            for seed in range(self.seeds):
                # the seed's own difficulty is shared by all arms: that is what pairing removes
                common = 0.03 * np.sin(1.7 * seed)
                own = 0.004 * self.rng.standard_normal()
                ap = 0.8 + self.effects[arm] + shift + common + own
                self.confirmation(arm, variant, seed, ap)

    def confirmation(self, arm: str, variant: str, seed: int, ap: float, **fields) -> None:
        name = f"confirm/{self.slugs[arm]}/{variant}-{seed:04d}"
        metrics = {
            "val/average_precision": ap + 0.01,
            "test/average_precision": ap,
            "test/balanced_accuracy": ap - 0.1,
            "test_tuned/balanced_accuracy": ap - 0.05,
            "test/roc_auc": 0.5 + ap / 2,
            "test/log_loss": 1 - ap,
            **{f"test/recall/{k}": ap - 0.01 * k for k in range(12)},
        }
        if arm == self.study["baseline"] and variant == "selected":
            metrics["test_prior_corrected/balanced_accuracy"] = ap - 0.04
        record = self.record(
            arm, "confirm", **{
                "key": name, "variant": variant, "seed_index": seed, "run_seed": 1000 + seed,
                "value": ap + 0.01, "metrics": metrics, **fields,
            },
        )  # fmt: skip
        self.write(f"{name}.json", record)

    def diverge(self, arm: str, variant: str, seed: int) -> None:
        chance = {
            "val/average_precision": 0.1,
            "test/average_precision": 0.1,
            "test/balanced_accuracy": 0.5,
        }
        self.confirmation(
            arm, variant, seed, 0.1, state="diverged", metrics=chance, epochs=3, value=None
        )

    def outputs(self, arm: str, seed: int, logits: np.ndarray, targets: np.ndarray) -> None:
        name = f"confirm/{self.slugs[arm]}/selected-{seed:04d}"
        ids = np.arange(len(targets))
        np.savez(
            self.folder / f"{name}.npz", test_logits=logits, test_targets=targets, test_ids=ids,
            val_logits=logits, val_targets=targets, val_ids=ids, train_class_counts=[9, 1],
        )  # fmt: skip
        record = self.read(f"{name}.json")
        self.write(f"{name}.json", {**record, "outputs": f"{name}.npz"})

    def random_outputs(self, arms, count, classes=2, n=400, seed=0) -> dict:
        """Outputs of `count` seeds of each arm; what was written, by arm and seed."""
        rng, written = np.random.default_rng(seed), {}
        for arm in arms:
            for i in range(count):
                if classes == 2:
                    y = (rng.random(n) < 0.2).astype(int)
                    z = rng.normal(-2 + 3 * y, 1.5)
                else:
                    y, z = rng.integers(0, classes, n), rng.normal(size=(n, classes))
                    z[np.arange(n), y] += 1.5
                written[arm, i] = (z.astype(np.float32), y)
                self.outputs(arm, i, *written[arm, i])
        return written

    def frames(self):
        return frames_from_folder(self.folder)


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory):
    """Nothing is written into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOSSLAB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


def _factory(parent: Path):
    def make(effects=None, **options) -> StudyWriter:
        folder = parent / f"study-{len(list(parent.iterdir()))}"
        folder.mkdir()
        default = {"ce": 0.0, "balanced_ce": 0.001, "focal": 0.02}
        return StudyWriter(folder, default if effects is None else effects, **options)

    return make


def _messy(make) -> StudyWriter:
    writer = make({"ce": 0.0, HOSTILE: 0.02, "never run": 0.0})
    writer.study["arms"]["never run"]["slug"] = "never"
    writer.write("study.json", writer.study)
    for arm in ("ce", HOSTILE):
        writer.search(arm)
        writer.confirm(arm)
    writer.diverge(HOSTILE, "selected", 2)
    (writer.folder / "confirm/arm-1/selected-0004.json").unlink()
    return writer


@pytest.fixture
def study(tmp_path):
    """A factory of study writers, each in a folder of its own."""
    return _factory(tmp_path)


@pytest.fixture(scope="module")
def kept_study(tmp_path_factory):
    """The same for what all tests of a module read and none changes."""
    return _factory(tmp_path_factory.mktemp("kept"))


@pytest.fixture
def messy(study):
    """Diverged, pruned and missing runs, a hostile name, an arm without any confirmation."""
    return _messy(study)


@pytest.fixture(scope="module")
def kept_messy(kept_study):
    """The same for what all tests of a module read and none changes."""
    return _messy(kept_study)
