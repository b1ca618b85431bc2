"""How good the model is. These are non-private evaluations of public data, and labelled so wherever they appear."""

from __future__ import annotations

from silo.report.facts.base import Facts, Share, Text
from silo.report.facts.parties import Estimate


class Auc(Facts):
    """Area under the ROC curve of three ways to train, on the union of the test parts.

    `silo_only` is the mean over silos of models trained alone. `how_*` says how each was computed; intervals are
    optional and `interval_method` names how they were made, with their level.
    """

    pooled: Share | None = None
    federated: Share | None = None
    silo_only: Share | None = None
    pooled_interval: Estimate | None = None
    federated_interval: Estimate | None = None
    silo_only_interval: Estimate | None = None
    how_pooled: Text | None = None
    how_federated: Text | None = None
    how_silo_only: Text | None = None
    interval_method: Text | None = None
    label: Text = "non-private evaluation of public data"
