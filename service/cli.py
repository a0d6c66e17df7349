"""`cprm-serve`: settings from the environment, a few of them as flags, then uvicorn until SIGTERM."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn
from pydantic import ValidationError

from service import logs
from service.app import create_app
from service.settings import Settings, describe


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal; 0 after a graceful stop, 2 for a wrong setting."""
    arguments = _parser().parse_args(argv)
    given: dict[str, Any] = {name: value for name, value in vars(arguments).items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        for entry in error.errors():
            print(f"cprm-serve: CPRM_{str(entry['loc'][0]).upper()}: {entry['msg']}", file=sys.stderr)
        return 2
    logs.configure(settings.log_level)
    # uvicorn raises the signal again after its graceful stop; that must not turn exit 0 into a kill.
    signal.signal(signal.SIGTERM, lambda *_: None)
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cprm-serve",
        description="Serve relevance bundles over HTTP.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="settings (environment variables; a flag wins):\n" + describe(),
    )
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--bundles", dest="model_repo", type=Path, metavar="DIR")
    parser.add_argument("--model", dest="default_model", metavar="NAME")
    return parser


if __name__ == "__main__":
    sys.exit(main())
