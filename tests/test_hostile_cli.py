"""The command line under odd arguments, settings and environments: an exit code with words, never a traceback, and
nothing outside the home. Commands that would go on to Spark end before it.
"""

import os
import sys
import traceback

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jobs import cli
from jobs.errors import DataError
from jobs.settings import load_settings
from pipelines.import_table import MappingError, parse_mapping
from tests.hostile import NASTY

IN_PLACE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXT = st.sampled_from([text for text in NASTY if "\0" not in text]) | st.text(CHARACTERS, max_size=40)
DATES = st.sampled_from(["2026-01-31", "0001-01-01", "9999-12-31", "2026-02-30", "today"]) | TEXT
NUMBERS = st.integers().map(str) | TEXT
# What a command needs before its options, and which of its options take what.
COMMANDS = {
    ("status",): {}, ("coverage",): {"--release": TEXT}, ("lineage", TEXT): {}, ("plan",): {"--date": DATES},
    ("nightly",): {"--date": DATES}, ("evaluate",): {"--release": TEXT}, ("maintain", "--dry-run"): {},
    ("backfill",): {"--from": DATES, "--to": DATES}, ("explain",): {"--query": TEXT, "--item": TEXT},
    ("recall",): {"--query": TEXT, "--user": TEXT, "--beam": NUMBERS, "--release": TEXT}, ("evaluate", "--recall"): {},
    ("releases", "list"): {}, ("releases", "diff", TEXT, TEXT): {}, ("releases", "pin", TEXT): {},
    ("releases", "rollback", TEXT): {}, ("audit",): {"--release": TEXT, "--date": DATES},
    ("build-corpus",): {"--release": TEXT, "--date": DATES}, ("publish-release",): {"--release": TEXT},
    ("aggregate-day",): {"--release": TEXT, "--date": DATES}, ("import", "icecat", TEXT): {},
    ("import", "ubi", TEXT): {}, ("import", "esci", TEXT): {"--locale": TEXT},
    ("import", "table", TEXT): {"--mapping": TEXT}, ("simulate", "catalogue"): {"--items": TEXT, "--seed": NUMBERS},
    ("simulate", "clicks"): {"--days": TEXT, "--until": DATES, "--seed": NUMBERS}, (TEXT,): {"--json": TEXT},
    ("forget",): {"--user": TEXT}, ("forget", "--pseudonym"): {"--user": TEXT},
}  # fmt: skip


@st.composite
def command_lines(draw):
    """A command with hostile values, and now and then an option that it does not know."""
    words, options = draw(st.sampled_from(list(COMMANDS.items())))
    line = [word if isinstance(word, str) else draw(word) for word in words]
    for name, values in options.items():
        line += [name, draw(values)]
    if draw(st.integers(0, 3)) == 0:
        line += [draw(st.sampled_from(["--profile", "--settings", "--" + "x" * 50])), draw(TEXT)]
    return line


def no_spark(*arguments):
    raise DataError("No Spark here: it takes seconds to start.")


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    """An empty folder to stand in, with a home beside a file that is not to be touched."""
    for part in ("here", "home"):
        (tmp_path / part).mkdir()
    (tmp_path / "kept.txt").write_text("kept")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("jobs.session.start_session", no_spark)
    return tmp_path


def ran(capsys, *arguments):
    """Exit code and what was said, of a command in this process."""
    before = sys.argv
    sys.argv = ["dsirm", *arguments]
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except KeyboardInterrupt:
        raise  # whoever stops the tests is no finding
    except BaseException:  # a panic of Rust is no Exception
        code = traceback.format_exc()
    finally:
        sys.argv = before
    said = capsys.readouterr()
    return code, said.out + said.err


def outside(sandbox):
    return sorted(
        str(path.relative_to(sandbox)) for path in sandbox.rglob("*") if not path.is_relative_to(sandbox / "home")
    )


@IN_PLACE
@given(line=command_lines())
@example(line=["import", "table", "../kept.txt", "--mapping", "../kept.txt"])
@example(line=["import", "ubi", "."])
@example(line=["import", "ubi", "x" * 3000])
@example(line=["coverage", "--release", "x", "--settings", "/dev/null/x"])
@example(line=["simulate", "clicks", "--until", "0001-01-01"])
def test_any_command_line_ends_in_words_and_touches_nothing_else(sandbox, capsys, line):
    before = outside(sandbox)
    code, said = ran(capsys, *line, "--home", str(sandbox / "home"))
    assert code in (0, 2, 65), (line, code, said)
    assert "Traceback" not in said, line
    assert code == 0 or said.strip(), line
    assert outside(sandbox) == before, line


@IN_PLACE
@given(name=TEXT.filter(bool))
@example(name="x" * 5000)
@example(name="~nobody-of-that-name/x")
@example(name="../kept.txt")
@example(name="../kept.txt/home")
@example(name="\\udcff")
def test_any_home_is_used_or_refused_in_words(sandbox, capsys, name):
    for command in (["status"], ["releases", "pin", "x"]):
        code, said = ran(capsys, *command, "--home", name)
        assert code in (0, 2, 65), (name, code, said)
        assert "Traceback" not in said, name
    assert (sandbox / "kept.txt").read_text() == "kept"
    assert outside(sandbox) == ["here", "kept.txt"], "looking makes nothing"


def test_an_argument_that_is_no_text_is_a_usage_error(capsys):
    code, said = ran(capsys, "explain", "--query", os.fsdecode(b"\xff\xfe"))
    assert (code, said) == (2, "Error: The command line is not UTF-8 text: '\\udcff\\udcfe'.\n")


TOML = st.sampled_from(["a", "[corpus]\n", "window_days", " = ", "=", "3", '"x"', "'''", "\n", "[[", "]", "{", "é", "#",
                        "[" * 3000, "9" * 5000, "1e999", "nan", "0x", "\x00", "[privacy]\nuser_key = 3\n", "table",
                        "columns", '"click_log"', ".", "1979-05-27T07:32:00", "inline = {a = 1, a = 2}"])  # fmt: skip


@IN_PLACE
@given(parts=st.lists(TOML, max_size=12), tail=st.binary(max_size=6))
@example(parts=["a = ", "9" * 5000], tail=b"")
@example(parts=["a = ", "[" * 3000], tail=b"")
@example(parts=["a = 1"], tail=b"\xff\xfe")
def test_any_settings_file_and_any_mapping_is_used_or_refused_in_words(tmp_path, parts, tail):
    body = "".join(parts).encode() + tail
    path = tmp_path / "dsirm.toml"
    path.write_bytes(body)
    try:
        load_settings(tmp_path, environ={})
    except DataError as refused:
        assert str(refused)
    try:
        parse_mapping(body.decode("utf-8", "replace"))
    except MappingError as refused:
        assert str(refused)


@IN_PLACE
@given(name=st.sampled_from(["DSIRM_CORPUS__ZONE", "DSIRM_CORPUS__WINDOW_DAYS", "DSIRM_PRIVACY__USER_KEY", "DSIRM_X__Y",
                             "DSIRM_STORAGE__SPARK", "DSIRM_LOG_LEVEL", "DSIRM_PROFILE"]), value=TEXT)  # fmt: skip
@example(name="DSIRM_CORPUS__ZONE", value="[" * 3000)
@example(name="DSIRM_CORPUS__WINDOW_DAYS", value='3\n[privacy]\nuser_key = "mine"')
@example(name="DSIRM_LOG_LEVEL", value="loud")
def test_any_environment_is_used_or_refused_in_words(sandbox, capsys, monkeypatch, name, value):
    with monkeypatch.context() as patch:
        patch.setenv(name, value)
        code, said = ran(capsys, "releases", "list", "--home", str(sandbox / "home"))
    assert code in (0, 65), (code, said)
    assert "Traceback" not in said


def test_a_damaged_state_of_the_home_is_named(sandbox, capsys):
    release = "2026-01-31-00000000"
    (sandbox / "home" / "plans").mkdir()
    for body in ("", "{", "[]", "{}", '{"days": 3}', "\x00"):
        (sandbox / "home" / "plans" / f"{release}.json").write_text(body)
        code, said = ran(capsys, "build-corpus", "--release", release, "--home", str(sandbox / "home"))
        assert (code, "is damaged: delete it" in said) == (65, True), (body, said)


def test_a_storage_that_cannot_be_had_is_said_without_what_is_secret(sandbox, capsys, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-anybody")
    monkeypatch.setenv("DSIRM_STORAGE__TABLES", "nowhere://not-for-anybody/x")
    code, said = ran(capsys, "nightly", "--home", str(sandbox / "home"))
    assert code in (1, 65)
    assert "Traceback" not in said
    assert "not-for-anybody" not in said
