"""Arguments that several commands take."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

# torch takes seconds to import; `--help` must not pay for it.
if TYPE_CHECKING:
    from training.config import RunConfig

DATA_HELP = "folder of the data set: dataset.json, items, labels, clicks (docs/data.md)"


def data_folder(arguments: argparse.Namespace, config: RunConfig) -> Path:
    """`--data`, or the configuration's own. Raises ConfigError when neither names one."""
    from training.config import ConfigError

    data: Path | None = arguments.data or config.data
    if data is None:
        raise ConfigError(f"{arguments.config}: has no `data`; name the data set with --data")
    return data
