"""Settings: layers, refusals, profiles."""

import pytest

from jobs.errors import DataError
from jobs.settings import PROFILES, Settings, load_settings


def refusal(home, **how):
    with pytest.raises(DataError) as caught:
        load_settings(home, **{"environ": {}, **how})
    return str(caught.value)


def test_defaults_without_any_file(tmp_path):
    assert load_settings(tmp_path, environ={}) == Settings()


def test_every_problem_is_listed_at_once(tmp_path):
    (tmp_path / "dsirm.toml").write_text(
        """
        colour = "red"
        [corpus]
        windowdays = 3
        zone = "Mars/Olympus"
        prior_clicks = 0
        [quantizer]
        codebook_sizes = [64, 64]
        [encoder]
        batch = "many"
        [matching]
        ss = [0.0, 0.6, 0.5, 1.0]
        [generator]
        backend = "magic"
        """
    )
    message = refusal(tmp_path)
    lines = message.splitlines()[1:]
    for line in (
        "colour: there is no such setting",
        "corpus.windowdays: there is no such setting",
        "corpus.zone: 'Mars/Olympus' is not a time zone",
        "corpus.prior_clicks: Input should be greater than 0",
        "quantizer: codebook_sizes names 2 levels; a SID has 3",
        "encoder.batch: Input should be a valid integer",
        "matching.ss: ss must rise with depth within 0..1",
        "generator.backend: Input should be 'embedded' or 'causal_lm'",
    ):
        assert sum(line in found for found in lines) == 1, message
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("[corpus]\nvalid_share = 0.5\ntest_share = 0.5", "leave less than a tenth"),
        ("[corpus]\nhead_share = 0.7\ntail_share = 0.7", "exceed 1"),
        ("[quantizer]\ncodebook_sizes = [8, 8, 8]", "reserved = 8 leaves no code of 8"),
        ("[quantizer]\ncodebook_sizes = [8, 8, 1048577]", "less than or equal to 1048576"),
        ("[generator]\nbatch = 10\naccumulation = 3", "does not divide"),
        ("[quantizer]\ntau = nan", "finite number"),
        ("[gates]\nitem_coverage = 1.5", "less than or equal to 1"),
        ("corpus = 3", "corpus: "),
    ],
)
def test_impossible_values(tmp_path, section, says):
    (tmp_path / "dsirm.toml").write_text(section)
    assert says in refusal(tmp_path)


def test_a_file_that_cannot_be_used_is_named(tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text("[corpus\n")
    assert f"{broken} is not TOML" in refusal(tmp_path, file=broken)
    missing = tmp_path / "missing.toml"
    assert f"{missing} cannot be read" in refusal(tmp_path, file=missing)
    assert "no profile 'nope'. Known: " in refusal(tmp_path, profile="nope")


def test_values_from_the_environment_are_read_as_toml(tmp_path):
    environ = {
        "DSIRM_CORPUS__WINDOW_DAYS": "7",
        "DSIRM_CORPUS__ZONE": "Europe/Berlin",  # not TOML: taken as text
        "DSIRM_QUANTIZER__CODEBOOK_SIZES": "[16, 32, 64]",
        "DSIRM_GENERATOR__LORA": "true",
        "DSIRM_PRIVACY__USER_KEY": '"123"',
        "DSIRM_STORAGE__SPARK": '{"spark.master" = "local[1]"}',
        "DSIRM_HOME": "/elsewhere",
        "OTHER__KEY": "1",
    }
    found = load_settings(tmp_path, environ=environ)
    assert (found.corpus.window_days, found.corpus.zone) == (7, "Europe/Berlin")
    assert found.quantizer.codebook_sizes == (16, 32, 64)
    assert found.generator.lora is True
    assert found.privacy.user_key == "123"
    assert found.storage.spark == {"spark.master": "local[1]"}
    assert "corpus.nonsense: there is no such setting" in refusal(tmp_path, environ={"DSIRM_CORPUS__NONSENSE": "1"})


def test_later_layers_win_key_by_key(tmp_path):
    def window(**how):
        found = load_settings(tmp_path, **{"environ": {}, **how})
        assert "profile" not in how or found.quantizer.codebook_sizes == (64, 64, 64), "the rest of a profile stays"
        return found.corpus.window_days

    own, other = tmp_path / "dsirm.toml", tmp_path / "other.toml"
    environ = {"DSIRM_CORPUS__WINDOW_DAYS": "4"}
    assert window() == 30
    assert window(profile="demo") == 14
    assert window(environ={"DSIRM_PROFILE": "demo"}) == 14
    own.write_text("[corpus]\nwindow_days = 2\n")
    assert window(profile="demo") == 2
    other.write_text("[corpus]\nwindow_days = 3\n")
    assert window(profile="demo", file=other) == 3, "a named file stands in for the home's own"
    assert window(profile="demo", file=other, environ=environ) == 4


@pytest.mark.parametrize("profile", sorted(path.stem for path in PROFILES.glob("*.toml")))
def test_every_profile_loads(tmp_path, profile):
    assert load_settings(tmp_path, profile, environ={}) != Settings()


def test_demo_and_dsirm_are_profiles_and_dsirm_holds_the_numbers_of_the_paper(tmp_path):
    assert {"demo", "dsirm"} <= {path.stem for path in PROFILES.glob("*.toml")}
    found = load_settings(tmp_path, "dsirm", environ={})
    assert found.quantizer.codebook_sizes == (216, 512, 512)
    assert found.quantizer.tau == 0.07
    assert found.generator.backend == "causal_lm"
    assert found.generator.model == "Qwen/Qwen3-0.6B"
    assert (found.generator.beams, found.generator.lr) == (5, 1e-4)
    assert found.matching.ss == (0.0, 0.25, 0.5, 1.0)


def test_the_hash_follows_what_decides_results_alone(tmp_path):
    def hash_with(text):
        (tmp_path / "dsirm.toml").write_text(text)
        return load_settings(tmp_path, environ={}).config_hash()

    plain = hash_with("")
    for aside in ("[storage]\ntables = '/elsewhere'", "[privacy]\nuser_key = 'k'", "[gates]\nitem_coverage = 0.5"):
        assert hash_with(aside) == plain
    others = {hash_with(t) for t in ("[quantizer]\nseed = 1", "[corpus]\nwindow_days = 1", "[ranker]\nfolds = 3")}
    assert len(others - {plain}) == 3


def test_the_user_key_is_not_shown():
    found = Settings.model_validate({"privacy": {"user_key": "very-secret"}})
    assert "very-secret" not in repr(found)
