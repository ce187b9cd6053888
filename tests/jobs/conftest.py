"""A night of CQ-SID on a small marketplace, made once for all tests of this room that read one."""

import pytest

from jobs import nightly
from tests.marketplace import EVERY_JOB, copy_home, with_session

CQ_SID = EVERY_JOB.replace("reserved = 2", 'reserved = 0\nunknown_level1 = "nearest"').replace(
    "max_steps = 60",
    """max_steps = 60
contrast_on = "encoder"
lone_items = true
tau = 0.1
contrastive_weight = 0.001
reconstruction_weight = 1.0
split_over = 2
split_groups = 4""",
)


@pytest.fixture(scope="package")
def cqsid_night(marketplace, tmp_path_factory, spark):
    root = tmp_path_factory.mktemp("cqsid") / "home"
    copy_home(marketplace, root)
    (root / "dsirm.toml").write_text(CQ_SID)
    home = with_session(type(marketplace)(root), spark)
    return home, nightly.run(home)
