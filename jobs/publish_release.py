"""Publish a release: one commit that makes it current.

Reads the plan, the audit's outcome and releases. Writes one row of releases, and ends a refit: the next one is another.
Publishing what is current already changes nothing; a release that was rolled back needs --again.
"""

from __future__ import annotations

import logging

from jobs import releases
from jobs.audit import passed
from jobs.home import Home
from jobs.plan import Plan, finish
from jobs.revision import code_revision

JOB = "publish-release"
log = logging.getLogger(__name__)


def run(home: Home, plan: Plan, *, again: bool = False) -> None:
    """Make the release current."""
    rows = releases.history(home.store)
    row = {
        "release": plan.release,
        "as_of_date": plan.date,
        "encoder_version": plan.encoder_version,
        "codebook_version": plan.codebook_version,
        "generator_version": plan.generator_version,
        # In one order, whether the plan was just made or read again after a kill.
        "inputs": sorted(plan.inputs.items()),
        "code_revision": code_revision(),
        "config_hash": plan.config_hash,
        "metrics": list(passed(home, plan.release, whenever=again).items()),
        **plan.times,
    }
    seen = int(rows[-1]["sequence"]) if rows and again else plan.seen
    if releases.publish(home.store, row, seen=seen, again=again):
        log.info("Published %s", plan.release)
    finish(home)
