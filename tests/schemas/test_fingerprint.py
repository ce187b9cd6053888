import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.fingerprint import check_release, digest, release_id, version_of

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_the_order_of_keys_does_not_matter(content):
    backwards = dict(reversed(content.items()))
    assert digest(backwards) == digest(content)


@given(JSON, JSON)
def test_other_content_has_another_digest(a, b):
    # `repr` tells True from 1, as JSON does and Python's == does not.
    assert (digest(a) == digest(b)) == (repr(a) == repr(b))


def test_digests_stay_what_they_were():
    # Names of releases in every home depend on it.
    assert digest({"b": [1, "é"], "a": None}) == "a44633ba036df25280e4fd9ef09da6f54dfe6d3611c755e31f993ab16f108f34"


def test_versions_name_their_kind_and_follow_the_content():
    version = version_of("quantizer", {"seed": 1})
    assert re.fullmatch(r"quantizer-[0-9a-f]{12}", version)
    assert version == version_of("quantizer", {"seed": 1})
    assert (
        len({version[-12:], version_of("quantizer", {"seed": 2})[-12:], version_of("encoder", {"seed": 1})[-12:]}) == 3
    )


def test_release_ids_name_their_day_and_follow_the_content():
    release = release_id("2026-01-31", {"inputs": "a"})
    assert re.fullmatch(r"2026-01-31-[0-9a-f]{8}", release)
    assert release == release_id("2026-01-31", {"inputs": "a"}) != release_id("2026-01-31", {"inputs": "b"})
    assert check_release(release) == release


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-31",
        "2026-01-31-0A1B2C3D",
        "2026-01-31-0a1b2c3d4",
        "2026-01-31-0a1b2c3d\n",
        "../2026-01-31-0a1b2c3d",
        "2026-01-31-0a1b2c3d' OR '1'='1",
        "٢٠٢٦-01-31-0a1b2c3d",  # digits, but not those of a path
    ],
)
def test_what_is_no_release_id_is_refused(text):
    with pytest.raises(ValueError, match="is not a release id"):
        check_release(text)


def test_a_release_id_needs_a_whole_date():
    with pytest.raises(ValueError, match="is not a release id"):
        release_id("2026-1-31", {})
