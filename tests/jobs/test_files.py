"""Files that are there whole or not at all, whoever else writes them at the same moment."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from jobs.errors import ConcurrentWrite
from jobs.files import keep_secret, one_at_a_time, write_json


def test_of_many_writers_at_once_one_wins_whole(tmp_path):
    path, bodies = tmp_path / "plans" / "plan.json", [{str(n): [n] * 2000} for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for written in [pool.submit(write_json, path, body) for body in bodies * 20]:
            written.result()
            assert json.loads(path.read_text()) in bodies
    assert list(path.parent.iterdir()) == [path]


def test_a_secret_is_kept_once_whole_and_for_its_owner(tmp_path):
    path = tmp_path / "user.key"
    with ThreadPoolExecutor(8) as pool:
        kept = set(pool.map(lambda n: keep_secret(path, str(n) * 64), range(8)))
    assert kept == {path.read_text()}
    assert len(path.read_text()) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_one_is_told_and_a_later_one_let_in(tmp_path):
    def train():
        with one_at_a_time(tmp_path / "lock", "training"):
            return "trained"

    with one_at_a_time(tmp_path / "lock", "training"), pytest.raises(ConcurrentWrite, match="training now"):
        train()
    assert train() == "trained"
