"""Names of stages and models, as files of a run folder and pages have them."""

from __future__ import annotations

PRETRAIN, RECIPE, SFT_ALONE = "pretrain", "cprm", "sft-alone"
