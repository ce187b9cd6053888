"""What somebody runs beside the night (import, forget, maintain) is killed too, and run again."""

import json
from typing import NamedTuple

import pytest

from jobs.home import Home
from tests.faults.points import TABLE_POINTS, kill
from tests.faults.state import Reader, differences, published, state
from tests.faults.test_kill_points import SAYS
from tests.faults.worker import BY_HAND, run_job
from tests.marketplace import LAST_DAY, copy_home, with_session

pytestmark = [pytest.mark.slow, pytest.mark.faults]
TOUCHED = {
    ("import", "JVM"): ("quarantine", "click_log"),
    ("forget", "JVM"): ("click_log", "users"),
    ("maintain", "delta-rs"): ("releases", "sid_items"),
}
POINTS = [
    (job, engine, table, where)
    for (job, engine), tables in TOUCHED.items()
    for table in tables
    for where in TABLE_POINTS
    # A partition that is emptied writes no file, so there is no place between files and commit.
    if (job, table, where) != ("maintain", "sid_items", "files")
]


class Published(NamedTuple):
    """Two releases of which retention keeps one, a log to import, and a person to forget."""

    home: Home
    after: dict[str, dict[str, str]]
    readers_see: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def standing(chain, tmp_path_factory, spark):
    folder = tmp_path_factory.mktemp("by-hand")
    home = copy_home(Home(chain.before["publish_release"]), folder / "home", spark)
    run_job(home, "publish_release", chain.release)
    home.user_key()
    with (home.root / "dsirm.toml").open("a") as settings:
        settings.write("\n[retention]\nreleases = 1\n")
    lines = [json.dumps(ubi(number)) for number in range(5)]
    (home.root / "late.ndjson").write_text("\n".join([*lines, "no record"]))
    known, seen = (set(home.store.read_arrow(name)["user"].to_pylist()) for name in ("users", "click_log"))
    (home.root / "person.txt").write_text(min(filter(None, known & seen)))
    after = {}
    for job in BY_HAND:
        done = copy_home(home, folder / f"after-{job}", spark)
        run_job(done, job, chain.release)
        after[job] = state(done.root)
        assert differences(after[job], state(home.root)), f"{job} does something"
    return Published(home, after, published(home.root))


def ubi(number):
    times = {"timestamp": f"{LAST_DAY}T10:00:0{number}Z"}
    names = {"action_name": "click", "client_id": "somebody", "query_id": f"late-{number}", "session_id": "late"}
    query = {"user_query": "a lamp of glass", "event_attributes": {"object": {"object_id": f"item-{number}"}}}
    return {**names, **query, **times}


@pytest.mark.parametrize(("job", "engine", "what", "where"), POINTS)
def test_killed_and_run_again_is_as_if_nothing_had_happened(
    job, engine, what, where, chain, standing, workers, tmp_path, tried, spark
):
    home = Home(copy_home(standing.home, tmp_path / "home").root)
    current = {chain.release: standing.readers_see[chain.release]}
    with Reader(home.root, current) as reader:
        kill(workers, engine, home, job, chain.release, (what, where), tmp_path / "reached")
        run_job(with_session(home, spark), job, chain.release)
    assert differences(state(home.root), standing.after[job]) == []
    assert (reader.wrong, reader.seen) == ([], [chain.release])
    assert reader.looks >= 2
    tried(engine, f"{job} ({what})", SAYS[where], "as one undisturbed run; readers saw no mix")
