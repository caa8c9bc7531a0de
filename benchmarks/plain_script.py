"""What a competent user writes today: Optuna and MLflow on SQLite, DataLoader, a plain torch loop.

`studies.py` measures losslab against it. It trains a small network with focal loss on arrays in an
.npz file; alpha, gamma and the learning rate are searched by TPE, and every epoch is validated and
logged. It knows nothing of losslab. The last line that it prints is JSON: how many trials it has
trained, and in how many seconds from the first one's beginning.
"""

import argparse
import json
import time
from pathlib import Path

import mlflow
import numpy as np
import optuna
import torch
import torch.nn.functional as F
from sklearn import metrics
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def main() -> None:
    """Search, and say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="an .npz file: x_train, y_train, x_validation, y_validation")
    parser.add_argument("folder", type=Path, help="where the databases go")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=256)
    options = parser.parse_args()
    with np.load(options.data) as arrays:
        train = TensorDataset(
            torch.from_numpy(arrays["x_train"]), torch.from_numpy(arrays["y_train"])
        )
        validation = torch.from_numpy(arrays["x_validation"]), arrays["y_validation"]

    torch.set_num_threads(1)  # the network is too small to gain from more
    mlflow.set_tracking_uri(f"sqlite:///{options.folder.absolute() / 'mlflow.db'}")
    mlflow.set_experiment("focal loss")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{options.folder.absolute() / 'optuna.db'}",
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=0),
    )
    began = time.perf_counter()
    study.optimize(lambda trial: objective(trial, train, validation, options), options.trials)
    seconds = time.perf_counter() - began
    print(json.dumps({"trials": options.trials, "seconds": seconds, "best": study.best_value}))


def objective(
    trial: optuna.Trial,
    train: TensorDataset,
    validation: tuple[Tensor, np.ndarray],
    options: argparse.Namespace,
) -> float:
    """Train one trial; its average precision on validation after the last epoch."""
    rate = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    alpha = trial.suggest_float("alpha", 0.05, 0.95)
    gamma = trial.suggest_float("gamma", 0.0, 5.0)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    loader = DataLoader(train, batch_size=options.batch_size, shuffle=True)
    with mlflow.start_run(run_name=f"trial {trial.number}"):
        mlflow.log_params({**trial.params, "batch_size": options.batch_size, "loss": "focal"})
        for epoch in range(options.epochs):
            model.train()
            total = 0.0
            for features, targets in loader:
                loss = focal_loss(model(features)[:, 0], targets.float(), alpha, gamma)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
            row = validate(model, *validation)
            mlflow.log_metrics({"train/loss": total / len(loader), **row}, step=epoch + 1)
    return row["val/average_precision"]


def focal_loss(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """Mean sigmoid focal loss (Lin et al. 2017)."""
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p = torch.sigmoid(logits)
    p_t = p * targets + (1 - p) * (1 - targets)
    # Without the bound, the gradient of a power below 1 is infinite where p_t is 1.
    rest = (1 - p_t).clamp(min=1e-6)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return (alpha_t * rest**gamma * ce).mean()


def validate(model: nn.Module, features: Tensor, targets: np.ndarray) -> dict[str, float]:
    """The metrics that losslab tracks, by scikit-learn."""
    model.eval()
    with torch.no_grad():
        p = torch.sigmoid(model(features)[:, 0].double()).numpy()
    decided = (p >= 0.5).astype(int)
    recalls = metrics.recall_score(targets, decided, average=None, labels=[0, 1])
    values = {
        "average_precision": metrics.average_precision_score(targets, p),
        "roc_auc": metrics.roc_auc_score(targets, p),
        "balanced_accuracy": metrics.balanced_accuracy_score(targets, decided),
        "accuracy": metrics.accuracy_score(targets, decided),
        "macro_f1": metrics.f1_score(targets, decided, average="macro"),
        "recall/0": recalls[0],
        "recall/1": recalls[1],
        "log_loss": metrics.log_loss(targets, p, labels=[0, 1]),
        "brier": metrics.brier_score_loss(targets, p),
        "ece": calibration_error(targets, p, decided),
    }
    return {f"val/{name}": float(value) for name, value in values.items()}


def calibration_error(targets: np.ndarray, p: np.ndarray, decided: np.ndarray) -> float:
    """Expected calibration error with 15 bins of equal width; scikit-learn has none."""
    confidence, right = np.maximum(p, 1 - p), decided == targets
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = np.bincount(bins, right - confidence, minlength=15)
    return float(np.abs(gaps).sum() / len(targets))


if __name__ == "__main__":
    main()
