"""OpenLineage events of jobs: what ran, what it read and wrote, at which versions.

Off, and nothing imported, unless the client's own variables ask for it (OPENLINEAGE_URL, OPENLINEAGE_CONFIG or
OPENLINEAGE__TRANSPORT__...). A backend that fails costs a warning, never the job.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from jobs.errors import DataError, TransientError
from jobs.home import run_id
from schemas.tables import TABLES

if TYPE_CHECKING:
    from jobs.home import Home

log = logging.getLogger(__name__)
VARIABLES = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE__TRANSPORT")
NAMESPACE = "dsirm"
PRODUCER = "urn:dsirm:pipeline"


class _Run(NamedTuple):
    id: str
    job: str


_open: list[_Run] = []
_client: list[Any] = []


def wanted() -> bool:
    """Whether the environment names a place for events."""
    off = os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true"
    return not off and any(name.startswith(VARIABLES) for name in os.environ)


@contextmanager
def job_run(home: Home, job: str) -> Iterator[None]:
    """Around a job: START, then COMPLETE or FAIL with the tables that it read and wrote. One within one is its child.

    The store begins to note anew what is read and written, with events or without.
    """
    store = home.store
    outer = store.reads, store.writes
    store.reads, store.writes = {}, set()
    try:
        if not wanted():
            yield
            return
        from openlineage.client.uuid import generate_new_uuid

        run = _Run(str(generate_new_uuid()), job)
        _emit(home, run, "START")
        _open.append(run)
        try:
            yield
        except BaseException as error:
            _open.remove(run)
            _emit(home, run, "FAIL", error)
            raise
        _open.remove(run)
        _emit(home, run, "COMPLETE")
    finally:
        store.reads, store.writes = outer


def _emit(home: Home, run: _Run, state: str, error: BaseException | None = None) -> None:
    """Send an event. After the first failure this process sends no more: a night must not wait for a dead backend."""
    if _client and _client[0] is None:
        return
    try:
        if not _client:
            from openlineage.client import OpenLineageClient

            _client.append(OpenLineageClient())
        _client[0].emit(_event(home, run, state, error))
    except Exception as failure:
        # Not its message, which may show the address with what it holds of credentials.
        _client[:] = [None]
        log.warning("Lineage events stop here, the job goes on: %s on %s", type(failure).__name__, state)


def _event(home: Home, run: _Run, state: str, error: BaseException | None) -> Any:
    from openlineage.client import event_v2 as ol
    from openlineage.client.facet_v2 import error_message_run, parent_run, tags_run

    fields = [tags_run.TagsRunFacetFields(key, value, "dsirm") for key, value in sorted(home.origin().items())]
    facets: dict[str, Any] = {"tags": tags_run.TagsRunFacet(tags=fields)}
    namespace = os.environ.get("OPENLINEAGE_NAMESPACE", NAMESPACE)
    if _open:
        parent = _open[-1]
        facets["parent"] = parent_run.ParentRunFacet(
            run=parent_run.Run(runId=parent.id), job=parent_run.Job(namespace=namespace, name=parent.job)
        )
    if error is not None:
        # Our own messages are made to be read; others may show a plan, and a plan holds the key of the pseudonyms.
        ours = isinstance(error, DataError | TransientError)
        message = str(error) if ours else type(error).__name__
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(message, programmingLanguage="PYTHON")
    return ol.RunEvent(
        eventType=ol.RunState[state],
        eventTime=dt.datetime.now(dt.UTC).isoformat(),
        run=ol.Run(runId=run.id, facets=facets),
        job=ol.Job(namespace=namespace, name=run.job),
        producer=PRODUCER,
        inputs=[ol.InputDataset(**_dataset(home, name, version)) for name, version in sorted(home.store.reads.items())],
        outputs=[ol.OutputDataset(**_dataset(home, name, _written(home, name))) for name in sorted(home.store.writes)],
    )


def _written(home: Home, name: str) -> int:
    """Version of this run's last commit to a table."""
    return next(commit.version for commit in home.store.commits(name) if commit.metadata.get("run") == run_id())


def _dataset(home: Home, name: str, version: int) -> dict[str, Any]:
    """A table by OpenLineage's naming of files and object stores, its version, its columns."""
    from openlineage.client.facet_v2 import dataset_version_dataset, schema_dataset

    place = urlsplit(home.store.path(name))
    columns = [
        schema_dataset.SchemaDatasetFacetFields(name=column.name, type=column.type, description=column.doc)
        for column in TABLES[name].columns
    ]
    remote = place.scheme not in ("", "file")
    return {
        # Without user and password, should an address hold them.
        "namespace": f"{place.scheme}://{place.netloc.rpartition('@')[2]}" if remote else "file",
        "name": place.path.lstrip("/") if remote else str(Path(place.path).resolve()),
        "facets": {
            "version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=str(version)),
            "schema": schema_dataset.SchemaDatasetFacet(fields=columns),
        },
    }
