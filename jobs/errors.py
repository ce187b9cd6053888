"""What can go wrong with a run, sorted by whether trying again helps. The exit code carries it to Airflow."""

from __future__ import annotations

EXIT_TRANSIENT = 1
EXIT_USAGE = 2
EXIT_DATA = 65


class DataError(Exception):
    """The input, the settings or the state of the home is wrong: trying again gives the same. Exit code 65."""


class AuditFailed(DataError):
    """A gate refused the release; what was published before goes on serving. Exit code 65."""


class TransientError(Exception):
    """Something that trying again may mend; nothing half-done is left behind. Exit code 1."""


class ConcurrentWrite(TransientError):
    """Another run changed the same partition meanwhile; nothing was written. Trying again is right."""


class WorkerLost(TransientError):
    """A process of the study died; what was finished is kept."""
