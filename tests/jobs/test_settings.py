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
        ("[stage_users]\nbatch = 10\naccumulation = 3", "stage_users: accumulation = 3 does not divide batch = 10"),
        ("[stage_align]\nbatch = 10\naccumulation = 3", "stage_align: accumulation = 3 does not divide batch = 10"),
        ('[generator]\nstages = ["items"]', "is not the beginning of items, queries, users, align"),
        ('[generator]\nstages = ["queries", "items"]', "is not the beginning of items, queries, users, align"),
        ('[generator]\nstages = ["items", "queries", "align"]', "each goes on from the one before"),
        ("[quantizer]\ntau = nan", "finite number"),
        ("[recall]\nitems = 1001", "less than or equal to 1000"),
        ("[recall]\nretrain_at = 5", "recall.retrain_at: Input should be less than or equal to 1"),
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


def test_cqsid_is_a_profile_with_the_numbers_of_the_paper(tmp_path):
    found = load_settings(tmp_path, "cqsid", environ={}).quantizer
    assert found.codebook_sizes == (2048, 1024, 1024)
    assert (found.contrast_on, found.tau, found.batch, found.ema_decay) == ("encoder", 0.1, 128, 0.99)
    weights = (found.reconstruction_weight, found.commitment_weight, found.contrastive_weight)
    assert weights == (1.0, 1.0, 0.001)
    assert (found.unknown_level1, found.lone_items) == ("nearest", True)
    assert (found.split_over, found.split_groups) == (50, 100)


def test_settings_that_came_later_leave_older_names_as_they_were(tmp_path):
    # These are hashes of releases made before the settings of CQ-SID existed.
    assert load_settings(tmp_path, "demo", environ={}).config_hash() == "e88ecc29c18ab6c2"
    assert "split_over" not in Settings().quantizer.content()
    changed = {"DSIRM_QUANTIZER__SPLIT_OVER": "50"}
    assert load_settings(tmp_path, environ=changed).quantizer.content()["split_over"] == 50
    assert load_settings(tmp_path, environ=changed).config_hash() != load_settings(tmp_path, environ={}).config_hash()


def test_a_stage_counts_only_where_the_generator_goes_through_it(tmp_path):
    plain = load_settings(tmp_path, environ={})
    unused = {"DSIRM_STAGE_USERS__LR": "0.5"}
    assert load_settings(tmp_path, environ=unused).config_hash() == plain.config_hash()
    staged = {"DSIRM_GENERATOR__STAGES": '["items", "queries", "users"]'}
    hashes = {load_settings(tmp_path, environ=one).config_hash() for one in (staged, staged | unused)}
    assert len(hashes | {plain.config_hash()}) == 3


def test_the_stages_of_cqsid_are_the_papers(tmp_path):
    found = load_settings(tmp_path, "cqsid", environ={})
    assert found.generator.stages == ("items", "queries", "users", "align") and found.personal
    numbers = [
        (stage.batch, stage.lr, stage.steps)
        for stage in (found.stage_items, found.stage_queries, found.stage_users, found.stage_align)
    ]
    assert numbers == [(128, 1e-4, 2000), (256, 4e-5, 2500), (64, 4e-5, 5000), (64, 1e-6, 1000)]
    align = found.stage_align
    assert (align.batch * align.group, align.experts, align.kl) == (512, 2, 1.0)


def test_tables_of_recall_are_those_that_are_asked_for(tmp_path):
    def tables(text):
        (tmp_path / "dsirm.toml").write_text(text)
        return load_settings(tmp_path, environ={}).recall_tables

    users = '[generator]\nstages = ["items", "queries", "users"]\n'
    assert tables("") == tables(users + "[recall]\nrequests = 5") == ()
    for text in ("[recall]\nbeams = 2\nrequests = 5", users + "[recall]\nbeams = 2"):
        assert tables(text) == ("recall_lists",)
    assert tables(users + "[recall]\nbeams = 2\nrequests = 5") == ("request_sids", "recall_lists")


def test_groups_that_the_third_index_cannot_count_are_refused(tmp_path):
    environ = {"DSIRM_QUANTIZER__CODEBOOK_SIZES": "[16, 16, 65536]", "DSIRM_QUANTIZER__SPLIT_OVER": "50"}
    with pytest.raises(DataError, match="split_groups = 100 times 65536 codes do not fit"):
        load_settings(tmp_path, environ=environ)


def test_recall_counts_in_names_only_where_it_is_asked_for(tmp_path):
    def named(text, profile=None):
        (tmp_path / "dsirm.toml").write_text(text)
        return load_settings(tmp_path, profile, environ={})

    # Names of releases made before there was recall.
    for profile, before in ((None, "f0f424318d56f79e"), ("demo", "e88ecc29c18ab6c2"), ("dsirm", "9fffe7768c220180")):
        assert named("", profile).config_hash() == before, profile
    assert named("[recall]\nbeams = 0\nitems = 1000").config_hash() == named("").config_hash()
    assert named("[recall]\nbeams = 20").config_hash() != named("[recall]\nbeams = 50").config_hash()
    assert named("[recall]\nrequests = 5").config_hash() != named("").config_hash()
    assert named("[recall]\nretrain_at = 0.2").config_hash() == named("").config_hash(), "advice decides no row"
    assert (named("", "cqsid").recall.beams, named("", "cqsid").recall.requests) == (20, 20_000)
    assert (named("").beams, named("[recall]\nbeams = 50").beams, named("[recall]\nbeams = 2").beams) == (5, 50, 5)
