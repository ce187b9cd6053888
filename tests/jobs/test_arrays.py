"""Tables as arrays: what no model may be given is refused by the name of its table."""

import pyarrow as pa
import pytest

from jobs.arrays import matrix
from schemas.contract import ContractError


def column(*vectors):
    return pa.chunked_array([pa.array([vector], pa.list_(pa.float32())) for vector in vectors])


def test_vectors_become_rows():
    assert matrix(column([1, 2], [3, 4]), "t").tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "vectors",
    [([1, 2], [3]), ([1, 2], [1], [1, 2, 3]), ([1, 2], []), ([1, 2], None), ([1, float("nan")],), ([None, 1],)],
    ids=["narrow", "equal on average", "empty", "null", "nan", "null inside"],
)
def test_other_widths_and_what_is_no_number_are_refused(vectors):
    with pytest.raises(ContractError, match="query_embeddings holds NaN or vectors of different widths"):
        matrix(column(*vectors), "query_embeddings")
