"""Judging a finished generator on the test split."""

import numpy as np

from losslab.experiments.adversarial.parts import prepare_adversarial
from losslab.experiments.confirmation import Verdict
from losslab.experiments.data import held_out
from losslab.experiments.states import State
from losslab.experiments.training import load_weights


def judge_adversarial(state: State, decision: str, with_prior_correction: bool) -> Verdict:
    """Judge a generator against the test split; one that diverged meets no mode.

    `metrics` are the study's, as `test/...`, of as many generated samples as there are test
    samples. `outputs`: the generated samples `test_generated`, and the real ones, `test_samples`,
    with their modes, `test_modes`. Nothing is decided here, so there is no `decision` to tune.
    """
    job, parts = state.job, prepare_adversarial(state.job)
    test, digest = held_out(job.config["dataset"], job.study_seed, job.run_seed, job.device)
    load_weights(parts.model, state.judged_model)
    real = test.features.cpu().numpy()
    generated = (
        np.full_like(real, np.nan) if state.diverged else parts.generated(job, "test", len(test))
    )
    return Verdict(
        {f"test/{name}": value for name, value in parts.scores(test, generated, job).items()},
        {
            "test_generated": generated.astype(np.float32),
            "test_samples": real,
            "test_modes": test.targets.cpu().numpy(),
        },
        {**parts.data.pairing, "test": digest},
    )
