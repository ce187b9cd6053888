"""What a home holds, as something to compare; and a reader who looks at it all the time."""

import hashlib
import threading
import time
from urllib.parse import quote

import deltalake
import duckdb
import pyarrow as pa

from jobs import releases
from jobs.errors import DataError
from jobs.home import Home
from jobs.readers import scan_release
from jobs.views import RELEASE_TABLES
from schemas.tables import TABLES


def rows_digest(rows):
    """Of an Arrow table, whatever the order of its rows. By DuckDB, since a reader looks again and again."""
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("seen", rows)
        return connection.execute("SELECT count(*), sum(hash(seen)), bit_xor(hash(seen)) FROM seen").fetchone()


def state(root, known=None):
    """Rows of every table, bytes of every model, plan and audit of a home; an audit's pages say when they were made.

    `known` keeps what was read of one home, so that the next look reads new versions alone.
    """
    home, found, known = Home(root), {}, {} if known is None else known
    for name in filter(home.store.exists, TABLES):
        at = (name, home.store.version(name))
        found[name] = known[at] = known.get(at) or rows_digest(home.store.read_arrow(name))
    for place in ("artifacts", "plans", "audits"):
        for path in sorted((home.root / place).rglob("*")):
            if path.is_file() and ".partial" not in str(path) and path.suffix != ".html":
                found[str(path.relative_to(home.root))] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return found


def differences(one, other):
    """What two states do not have in common."""
    return sorted(key for key in {*one, *other} if one.get(key) != other.get(key))


def on_disk(root, table):
    """(Delta version, data files that no commit holds) of a table; (-1, all) where it was never created."""
    path = Home(root).store.path(table)
    files = {str(file.relative_to(path)) for file in Home(root).root.joinpath("tables", table).rglob("*.parquet")}
    files = {file for file in files if not file.startswith("_delta_log")}
    if not deltalake.DeltaTable.is_deltatable(path):
        return -1, files
    newest = deltalake.DeltaTable(path).version()
    versions = [deltalake.DeltaTable(path, version) for version in range(newest + 1)]
    every = {name for held in versions for name in pa.table(held.get_add_actions())["path"].to_pylist()}
    return newest, {file for file in files if quote(file, safe="/=") not in every and file not in every}


def published(root):
    """Release -> digest of its rows in each table of releases, as a reader sees it."""
    names = [row["release"] for row in releases.history(Home(root).store)]
    return {name: {table: rows_digest(scan_release(root, table, name)) for table in RELEASE_TABLES} for name in names}


class Reader:
    """Looks at the current release and at all its tables, again and again, while others work and die.

    `expected` says what each release holds once it is published; anything else that is seen is a mix.
    """

    def __init__(self, root, expected):
        self.root, self.expected = root, expected
        self.seen, self.wrong, self.looks = [], [], 0
        self.read = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()
        self._look_once()

    def _read(self):
        while not self._end.is_set():
            self._look_once()
            time.sleep(0.2)

    def _look_once(self):
        try:
            self._look()
        except Exception as error:
            self.wrong.append(f"{type(error).__name__}: {error}")
        self.looks += 1

    def _look(self):
        store = Home(self.root).store
        serving = releases.current(store)["release"]
        if not self.seen or self.seen[-1] != serving:
            self.seen.append(serving)
        for table, digest in self.expected[serving].items():
            version = (serving, store.version(table))
            if self.read.get(table) == version:  # a version never changes: what was read of it is read for good
                continue
            if rows_digest(scan_release(self.root, table, serving)) != digest:
                self.wrong.append(f"{table} of {serving}")
            self.read[table] = version
        for other in self.expected.keys() - set(self.seen):
            try:
                scan_release(self.root, "item_sids", other)
            except DataError:
                continue
            # Published between the two looks: then it must be current, or have been.
            if not any(row["release"] == other for row in releases.history(Home(self.root).store)):
                self.wrong.append(f"{other} could be read before it was published")
