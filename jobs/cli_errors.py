"""What the `dsirm` command says when something went wrong, and how it logs: never a secret, always an exit code."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback

import typer

from jobs.errors import EXIT_DATA, EXIT_TRANSIENT, EXIT_USAGE, DataError, TransientError
from jobs.redaction import Redacting, redacted


def run_told(app: typer.Typer) -> None:
    """Run a command line; what goes wrong becomes a message and an exit code."""
    if strange := [text for text in sys.argv[1:] if not _is_text(text)]:
        _fail(f"The command line is not UTF-8 text: {strange[0]!a}.", EXIT_USAGE)
    try:
        configure_logging()
        app()
    except TransientError as error:
        _fail(str(error), EXIT_TRANSIENT)
    except DataError as error:
        _fail(str(error), EXIT_DATA)
    except Exception as error:
        if (message := _about_data(error)) is not None:
            _fail(message, EXIT_DATA)
        if (message := _about_storage(error)) is not None:
            _fail(message, EXIT_TRANSIENT)
        typer.echo(redacted(traceback.format_exc()), err=True)
        _fail("This is a defect: please report the lines above.", EXIT_TRANSIENT)


def configure_logging() -> None:
    """Log to standard error, at the level that DSIRM_LOG_LEVEL says, without secrets.

    Raises:
        DataError: the level is none.

    """
    level = os.environ.get("DSIRM_LOG_LEVEL", "").upper()
    if level and level not in logging.getLevelNamesMapping():
        raise DataError(f"DSIRM_LOG_LEVEL is {level!a}, not one of DEBUG, INFO, WARNING and ERROR.")
    logging.basicConfig(
        level=level or "WARNING",
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )
    for handler in logging.getLogger().handlers:
        handler.setFormatter(Redacting(handler.formatter))
    logging.getLogger("great_expectations").setLevel("WARNING")
    for room in ("jobs", "dsirm_models"):
        logging.getLogger(room).setLevel(level or "INFO")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _about_storage(error: Exception) -> str | None:
    """The message of an error of a disk or an object store; None for any other."""
    if gone := next((line for line in str(error).splitlines() if "FAILED_READ_FILE.FILE_NOT_EXIST" in line), None):
        return (
            "A file that this release was planned on is gone: `dsirm forget`, or another VACUUM, deleted it meanwhile. "
            f"Run `dsirm nightly` again: it plans anew. {gone.strip()}"
        )
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if not kinds & {"OSError", "DeltaError"}:
        return None
    told = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    return f"The storage refused ({type(error).__name__}): {told}"


def _about_data(error: Exception) -> str | None:
    """The message of an error about data that a room below raised, here or in a Spark worker; None for any other.

    The classes are named rather than imported, since their modules are heavy.
    """
    ours = ("ContractError", "ArtifactError", "EncoderError")
    if type(error).__name__ in ours:
        return str(error)
    if type(error).__name__ == "PythonException":
        told = re.findall(rf"(?:{'|'.join(ours)}): (.+)", str(error))
        return told[-1] if told else None
    return None


def _fail(message: str, code: int) -> None:
    if os.environ.get("DSIRM_DEBUG"):
        typer.echo(redacted(traceback.format_exc()), err=True)
    typer.echo(f"Error: {redacted(message)}", err=True)
    sys.exit(code)
