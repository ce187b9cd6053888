"""A home: settings, tables, artifacts, plans and the Spark session of one marketplace."""

from __future__ import annotations

import os
import secrets
from contextlib import AbstractContextManager, nullcontext
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.files import keep_secret, one_at_a_time
from jobs.revision import code_revision
from jobs.settings import Settings, load_settings
from jobs.storage import Store

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DEFAULT_HOME = ".dsirm"


class Home:
    """One marketplace on disk. Tables are in `HOME/tables/NAME`, models in `HOME/artifacts/KIND/VERSION`."""

    def __init__(self, root: Path, *, profile: str | None = None, settings_file: Path | None = None) -> None:
        self.root = root.expanduser().resolve()
        self.settings: Settings = load_settings(self.root, profile, settings_file)
        self.store = Store(
            self.settings.storage.tables or str(self.root / "tables"), self.origin, locks=self.root / ".locks"
        )

    def origin(self) -> dict[str, str]:
        """What every commit says of where it comes from. Only commit metadata: no row depends on it."""
        return {"run": run_id(), "code_revision": code_revision(), "config_hash": self.settings.config_hash()}

    @cached_property
    def spark(self) -> SparkSession:
        """The session, started when first asked for."""
        from jobs.session import start_session

        return start_session(self.settings.storage.spark)

    def artifact(self, kind: str, version: str) -> Path:
        """Where a model version lives."""
        return self.root / "artifacts" / kind / version

    def scratch(self, kind: str, version: str) -> Path:
        """Where its checkpoints live while it trains, and its TensorBoard log afterwards."""
        return self.root / "training" / kind / version

    def training(self, kind: str, version: str) -> AbstractContextManager[None]:
        """To be held while a version is trained: two runs would share its checkpoints, and leave a mix of both."""
        if os.environ.get("RANK", "0") != "0":  # one of several processes of a run; the first of them holds it
            return nullcontext()
        return one_at_a_time(self.root / ".locks" / f"{kind}-{version}", f"training the {kind} {version}")

    def plan_file(self, release: str) -> Path:
        """Where the plan of a release is kept."""
        return self.root / "plans" / f"{release}.json"

    def user_key(self) -> str:
        """The key of the pseudonym hash: the setting, else one the home makes for itself and keeps (mode 600)."""
        if self.settings.privacy.user_key:
            return self.settings.privacy.user_key
        path = self.root / "user.key"
        return path.read_text(encoding="ascii") if path.exists() else keep_secret(path, secrets.token_hex(32))


@cache
def run_id() -> str:
    """What tells this run from others: DSIRM_RUN_ID where a scheduler sets it, else one id a process."""
    return os.environ.get("DSIRM_RUN_ID") or secrets.token_hex(8)
