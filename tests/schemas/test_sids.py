import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.sids import LEVELS, MAX_CODE, pack, shift_for, unpack

CODES = st.tuples(*[st.integers(0, MAX_CODE)] * LEVELS)
SIMILAR = st.tuples(*[st.integers(0, 2)] * LEVELS)


def test_layout():
    assert pack((1, 2, 3)) == (1 << 40) + (2 << 20) + 3
    assert pack((MAX_CODE,) * 3) == 1_152_921_504_606_846_975
    assert [shift_for(depth) for depth in (1, 2, 3)] == [40, 20, 0]


@given(CODES)
def test_unpacking_gives_the_codes_back(codes):
    assert unpack(pack(codes)) == codes
    assert 0 <= pack(codes) < 1 << 63


@given(CODES, CODES)
def test_packed_sids_sort_as_their_codes_do(a, b):
    assert (pack(a) < pack(b)) == (a < b)


@given(SIMILAR, SIMILAR, st.integers(1, LEVELS))
def test_shifted_sids_are_equal_just_where_prefixes_are(a, b, depth):
    shift = shift_for(depth)
    assert (pack(a) >> shift == pack(b) >> shift) == (a[:depth] == b[:depth])


@pytest.mark.parametrize("codes", [(1, 2), (1, 2, 3, 4), (-1, 0, 0), (0, MAX_CODE + 1, 0), ()])
def test_what_is_no_sid_is_refused(codes):
    with pytest.raises(ValueError, match="A SID is 3 codes"):
        pack(codes)


@pytest.mark.parametrize("sid", [-1, 1 << 60])
def test_numbers_that_are_no_packed_sid_are_refused(sid):
    with pytest.raises(ValueError, match="not a packed SID"):
        unpack(sid)


@pytest.mark.parametrize("depth", [0, LEVELS + 1])
def test_depths_that_do_not_exist_are_refused(depth):
    with pytest.raises(ValueError, match="prefix depth"):
        shift_for(depth)
