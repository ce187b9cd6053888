"""The report of a study: the right words for its intervals, every figure, and nothing that a name could smuggle in."""

import json
import math
from html.parser import HTMLParser

import pyarrow.parquet as pq
import pytest

from jobs.study_report import StudyTables, write_report

PRIMARY = {"base": "cosine+bm25+category", "ranker": "mlp"}


def comparison(variant, difference, low, high, **other):
    row = {"data": "icecat", **PRIMARY, "variant": variant, "against": "none", "metric": "auc", "slice": "all"}
    return {**row, "difference": difference, "low": low, "high": high, "seeds": 2, "queries": 250, **other}


def score(variant, auc, **other):
    row = {"data": "icecat", **PRIMARY, "variant": variant, "seed": 0, "slice": "all", "auc": auc, "auc_query": 0.8}
    return {**row, "ndcg10": 0.75, "precision": 0.7, "recall": 0.6, "pairs": 3545, "queries": 250, **other}


def origin(**other):
    row = {"data": "icecat", "seed": 0, "config_hash": "c0ffee", "code_revision": "abc1234", "tables": "catalog=7"}
    counts = {"items": 19406, "queries": 12000, "pairs": 155000, "judged_pairs": 3545, "judged_queries": 250}
    return {**row, **counts, **other}


GAIN = comparison("dsirm", 0.0154, 0.002, 0.029)
SCORES = [score("none", 0.87), score("dsirm", 0.885), score("none", 0.88, seed=1), score("dsirm", 0.896, seed=1)]


def tables(comparisons=(GAIN,), scores=tuple(SCORES), quality=(), calibration=(), provenance=(), notes=()):
    return StudyTables(*map(list, (comparisons, scores, quality, calibration, provenance, notes)))


@pytest.fixture
def written(tmp_path):
    """Writes a study and returns the text of the page, of the Markdown, or of any other file."""

    def write(study, name="report.md"):
        return write_report(tmp_path / "report", study)[name].read_text(encoding="utf-8")

    return write


@pytest.mark.parametrize(
    ("difference", "low", "high", "said"),
    [
        (0.0154, 0.002, 0.029, "by +1.54 points (95 % interval +0.20 to +2.90): above zero."),
        (0.0042, -0.001, 0.009, "by +0.42 points (95 % interval −0.10 to +0.90): inside the noise."),
        (-0.0122, -0.0247, -0.0003, "by −1.22 points (95 % interval −2.47 to −0.03): below zero."),
        (None, math.nan, None, "by – points (95 % interval – to –): not defined."),
    ],
)
def test_the_first_paragraph_says_what_the_interval_says(written, difference, low, high, said):
    study = tables([comparison("dsirm", difference, low, high)])
    assert said in written(study)
    assert said in written(study, "report.html").replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.002, 0.003, "is near zero on Icecat, as it should be"),
        (0.001, 0.003, "is above zero (+0.10, +0.10 to +0.30): noise seems to gain as well"),
        (-0.003, -0.001, "is below zero (+0.10, −0.30 to −0.10): noise of that width costs the ranker"),
    ],
)
def test_the_null_control_is_judged_too(written, low, high, said):
    assert said in written(tables([GAIN, comparison("null", 0.001, low, high)]))


def test_parts_and_rivals_are_told_from_noise_or_not(written):
    rows = [
        comparison("dsirm", 0.003, 0.001, 0.005, against="dsirm-no-bridge"),
        comparison("dsirm", 0.001, -0.001, 0.003, against="dsirm-no-category"),
        comparison("dsirm", -0.004, -0.006, -0.002, against="tiger"),
    ]
    text = written(tables([GAIN, *rows]))
    assert "Earning something: the query bridge (+0.30, +0.10 to +0.50). Inside the noise: the category level." in text
    assert "**DSIRM beside other IDs.** Below: TIGER (−0.40, −0.60 to −0.20)." in text


def test_curves_over_the_share_and_over_the_log(written):
    names = {"marketplace-40": 0.03, "marketplace-0": 0.0, "marketplace-20": 0.01, "marketplace-20@25%": 0.011}
    rows = [comparison("dsirm", gain, gain - 0.004, gain + 0.004, data=name) for name, gain in names.items()]
    text = written(tables(rows))
    assert (
        "0 %: +0.00 (−0.40 to +0.40), 20 %: +1.00 (+0.60 to +1.40), 40 %: +3.00 (+2.60 to +3.40). "
        "It rises at every step; the intervals of its two ends do not overlap." in text
    )
    assert "25 %: +1.10 (+0.70 to +1.50), 100 %: +1.00 (+0.60 to +1.40). It falls at every step" in text
    assert text.index("## Marketplace 20 %\n") < text.index("## Marketplace 20 %, 25 % of its log\n")


def test_a_data_set_is_read_by_the_mlp_with_category_and_the_rest_is_folded(written):
    others = [("lr", "cosine+bm25"), ("mlp", "cosine+bm25")]
    rows = [comparison("dsirm", 0.05, 0.04, 0.06, ranker=ranker, base=base) for ranker, base in others]
    study = tables([*rows, GAIN])
    assert "by +1.54 points" in written(study)
    html = written(study, "report.html")
    assert html.index("<summary>Other rankers and other features") < html.index("logistic regression, cosine+bm25")
    assert "Other rankers" not in written(tables(), "report.html")


def test_tables_hold_means_slices_quality_calibration_and_the_paper(written):
    measures = [("utilisation", 1, 0.96), ("purity_colour", 2, 0.5), ("collision_rate", None, 0.31)]
    study = tables(
        comparisons=[GAIN, comparison("dsirm", 0.02, -0.01, 0.05, slice="words=2", queries=60)],
        quality=[
            {"data": "icecat", "variant": "dsirm", "seed": seed, "measure": measure, "level": level, "value": value}
            for measure, level, value in measures
            for seed in (0, 1)
        ],
        calibration=[
            {"data": "icecat", **PRIMARY, "variant": variant, "grade": 2, "bin": at, "pairs": 50}
            | {"predicted": at / 10 + 0.05, "observed": at / 10}
            for variant in ("none", "dsirm")
            for at in range(10)
        ],
        provenance=[origin(), origin(seed=1)],
        notes=["Worlds differ by seed."],
    )
    text = written(study)
    for line in (
        "| none | 0.8750 | 0.8000 | 0.7500 | 0.7000 | 0.6000 | – |  |",
        "| DSIRM | 0.8905 | 0.8000 | 0.7500 | 0.7000 | 0.6000 | +1.54 [+0.20, +2.90] | above zero |",
        "| words=2 | 60 | – | – | +2.00 [−1.00, +5.00] | inside the noise |",
        "| variant | level | codes in use | purity, colour |",
        "| DSIRM | 1 | 96 % | – |",
        "| DSIRM | 31 % |",
        "| grade 2 or more | DSIRM | 0.050 | 500 |",
        "| DSIRM | 0.9356 (+1.54) | 0.8905 (+1.54) |",
        "| icecat | 1 | 19,406 | 12,000 | 155,000 | 3,545 | 250 | `c0ffee` | `abc1234` | `catalog=7` |",
        "Worlds differ by seed.",
    ):
        assert line in text
    html = written(study, "report.html")
    assert all(word in html for word in ("grade 2 or more", "codes in use", "words=2", "Worlds differ by seed."))


def test_what_the_study_lacks_is_absent(written):
    text = written(tables(), "report.html")
    assert not any(word in text for word in ("ESCI", "Slices", "Quality of the IDs", "Calibration", "Marketplace"))


class Page(HTMLParser):
    """Every element of a page, which must close in the order in which it was opened."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_says_what_its_plots_and_tables_are(written):
    page = Page(written(tables(provenance=[origin()]), "report.html"))
    tags = {tag for tag, _ in page.found}
    assert not tags & {"script", "link", "img", "iframe"}
    assert not [attrs for _, attrs in page.found if {"src", "onload"} & set(attrs)]
    assert all(attrs["href"].startswith("#") for tag, attrs in page.found if tag == "a")
    assert all(attrs.get("scope") for tag, attrs in page.found if tag == "th")
    plots = [attrs["aria-label"] for _, attrs in page.found if attrs.get("role") == "img"]
    assert plots and all("+1.54 [+0.20, +2.90], above zero" in said for said in plots)


def test_a_hostile_name_is_text(written):
    name = '"><script>alert(1)</script>|`x`[a](b)'
    rows = [comparison(name, 0.01, 0, 0.02), comparison("dsirm", 0.01, 0, 0.02, slice=name)]
    study = tables(
        [*rows, comparison("dsirm", 0.01, 0.0, 0.02, data=name)],
        provenance=[origin(data=name, tables=name)],
        notes=[name],
    )
    tags = {tag for tag, _ in Page(written(study, "report.html")).found}
    assert "script" not in tags
    assert "\\<script\\>alert(1)\\</script\\>\\|`x`[a\\](b)" in written(study)


def test_results_json_holds_whole_comparisons_only(written):
    rows = [
        GAIN,
        comparison("dsirm", 0.1234567, math.nan, None, metric="recall"),
        comparison("dsirm", 0, 0, 0, slice="words=2"),
    ]
    first = {"data": "icecat", "variant": "dsirm", "against": "none", "metric": "auc", "difference": 0.0154}
    first |= {"low": 0.002, "high": 0.029, "seeds": 2, "queries": 250, **PRIMARY}
    second = {**first, "metric": "recall", "difference": 0.123457, "low": None, "high": None}
    assert json.loads(written(tables(rows), "results.json")) == [first, second]


def test_parquet_rows_know_where_they_come_from(tmp_path):
    runs = [origin(tables="catalog=8"), origin(seed=1, tables="catalog=7", config_hash="beef")]
    paths = write_report(tmp_path, tables(provenance=runs))
    scores = pq.read_table(paths["scores.parquet"]).to_pylist()
    assert [(row["seed"], row["tables"]) for row in scores] == [(seed, f"catalog={8 - seed}") for seed in (0, 0, 1, 1)]
    (compared,) = pq.read_table(paths["comparisons.parquet"]).to_pylist()
    assert compared == {
        **GAIN,
        "config_hash": "beef, c0ffee",
        "code_revision": "abc1234",
        "tables": "catalog=7, catalog=8",
    }
    quality = pq.read_table(paths["quality.parquet"])
    assert (quality.num_rows, quality.schema.field("level").type) == (0, "int64")


def test_equal_studies_give_equal_files(tmp_path):
    first, second = (write_report(tmp_path / name, tables(provenance=[origin()])) for name in "ab")
    assert {name: path.read_bytes() for name, path in first.items()} == {
        name: path.read_bytes() for name, path in second.items()
    }


def test_an_empty_study_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="dsirm evaluate --study"):
        write_report(tmp_path / "report", tables(comparisons=[]))
    assert not (tmp_path / "report").exists()
