"""What a drift check makes of labels, predictions and inputs."""

from __future__ import annotations

import itertools

import pytest

from flows.core.drift import DriftNumbers, DriftVerdict, judge_drift
from flows.core.workload import DriftThresholds

THRESHOLDS = DriftThresholds(max_auc_drop=0.05, max_prediction_drift=0.25, max_input_share=0.5, min_rows=500)
ALL_INPUTS = {"temp": 8.0, "wind": 2.0}


def numbers(**changes: object) -> DriftNumbers:
    """A quiet day, with changes."""
    quiet = {"rows": 2000, "labelled_rows": 1500, "auc_reference": 0.70, "auc_current": 0.69, "prediction_psi": 0.05, "inputs": ALL_INPUTS}
    return DriftNumbers.model_validate({**quiet, **changes})


def test_a_quiet_day_passes() -> None:
    """Nothing beyond a threshold: the champion holds, by its labels."""
    verdict = judge_drift(numbers(), THRESHOLDS)
    assert verdict.passed and not verdict.needs_retrain and verdict.basis == "labels"


def test_a_loss_of_auc_asks_for_a_retrain() -> None:
    """Labels that say the model got worse are reason enough; the finding has its numbers."""
    verdict = judge_drift(numbers(auc_current=0.60), THRESHOLDS)
    assert verdict.needs_retrain and verdict.reasons[0].about == "labels" and verdict.reasons[0].observed == 0.1


def test_labels_outweigh_predictions_that_moved() -> None:
    """While the model stays right, its predictions may follow the season."""
    verdict = judge_drift(numbers(prediction_psi=0.9), THRESHOLDS)
    assert verdict.passed and any(finding.about == "predictions" and finding.exceeded for finding in verdict.reasons)


@pytest.mark.parametrize("missing", [{"labelled_rows": 499}, {"auc_current": None}, {"auc_reference": None}])
def test_without_enough_labels_predictions_decide(missing: dict[str, object]) -> None:
    """Labels come late: until then the predictions are the evidence."""
    assert judge_drift(numbers(prediction_psi=0.3, **missing), THRESHOLDS).needs_retrain
    assert judge_drift(numbers(prediction_psi=0.2, **missing), THRESHOLDS).basis == "predictions"


def test_with_too_few_rows_nothing_is_concluded() -> None:
    """A handful of rows neither holds nor breaks a champion."""
    verdict = judge_drift(numbers(rows=10, labelled_rows=5, auc_current=0.2, prediction_psi=5.0), THRESHOLDS)
    assert verdict.basis is None and not verdict.needs_retrain


def test_input_drift_alone_is_never_a_reason() -> None:
    """Over every state of labels and predictions, drifted inputs change nothing but their own finding."""
    for auc, psi, labelled in itertools.product((None, 0.5, 0.69), (None, 0.1, 0.3), (0, 1500)):
        calm = numbers(auc_current=auc, prediction_psi=psi, labelled_rows=labelled)
        stormy = calm.model_copy(update={"drifted_inputs": tuple(ALL_INPUTS)})
        assert judge_drift(calm, THRESHOLDS).needs_retrain == judge_drift(stormy, THRESHOLDS).needs_retrain
        assert next(finding for finding in judge_drift(stormy, THRESHOLDS).reasons if finding.about == "inputs").exceeded


def test_a_verdict_survives_json() -> None:
    """What is stored is what was judged."""
    verdict = judge_drift(numbers(auc_current=0.6, drifted_inputs=("temp",)), THRESHOLDS)
    data = verdict.to_json()
    assert data["numbers"]["auc_drop"] == 0.1 and data["numbers"]["input_share"] == 0.5
    assert DriftVerdict.from_json(data) == verdict
