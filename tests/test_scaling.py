"""What the sizing table of docs/scaling.md is computed by."""

import pytest

from benchmarks.scaling import GPU_JOBS, Measured, gpu_table, tables

JOB = Measured(cores=2, points=[(1_000_000, 30.0), (11_000_000, 130.0)])


def test_a_line_through_the_sizes_has_a_fixed_part_that_more_cores_do_not_divide():
    assert JOB.line == pytest.approx((20.0, 10e-6))
    assert JOB.seconds(11_000_000, 2) == pytest.approx(130.0)
    assert JOB.seconds(11_000_000, 20) == pytest.approx(20.0 + 11.0)
    assert JOB.seconds(11_000_000, 1) == pytest.approx(20.0 + 220.0)


def test_growth_faster_than_the_rows_leaves_nothing_fixed():
    slower = Measured(cores=2, points=[(10, 1.0), (100, 20.0)])
    assert slower.line[0] == 0.0
    assert slower.exponent == pytest.approx(1.301, abs=1e-3)


def test_a_rate_of_one_size_is_a_line_through_nothing():
    rate = Measured(cores=2, points=[(1, 0.01)])
    assert rate.seconds(1000, 20) == pytest.approx(1.0)
    assert rate.exponent is None


def test_the_page_has_a_row_for_each_job_that_was_measured_and_size():
    machine = {"cores": 2}
    sizes = [{"pairs": 5_000_000, "seconds": 60.0}, {"pairs": 80_000_000, "seconds": 900.0}]
    found = {"corpus": {"machine": machine, "facts": {"sizes": sizes}}}
    growth, sizing = tables(found).split("\n\n")
    assert "| corpus, full rebuild of 30 days | 5,000,000: 60 s, 80,000,000: 900 s | 4 s |" in growth
    assert "| 80M | corpus, full rebuild of 30 days | 30 min | 3 min | 22 s |" in sizing


def test_models_on_a_gpu_take_what_its_rates_say_and_nothing_is_said_where_none_was_measured():
    figures = [{"name": figure, "ours": 1_000_000.0} for _, figure in GPU_JOBS.values()]
    table = gpu_table({"machine": {"gpu": "NVIDIA H200"}, "figures": figures})
    assert table.count("\n") == 1 + len(GPU_JOBS)
    assert "| the quantizer, one pass over the pairs | 1,000,000 | 8 s | 80 s | 13 min |" in table
    assert "not measured" in gpu_table(None)
