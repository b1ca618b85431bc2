"""silo.toml and data.toml: what reads back the same, and what is refused with which words."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from silo.errors import ConfigError
from silo.home import FOREVER, DataSet, Settings
from silo.home.settings import read_data, read_settings, write_data, write_settings

MINIMAL = """
[[data]]
name = "heart"
population = "cleveland"
source = "uci-heart:cleveland"
categories = ["health"]
permitted_purposes = []
epsilon_cap = 3
delta = 1e-5
"""


def test_settings_read_back(tmp_path):
    settings = Settings(
        name="cleveland",
        display_name='The "Clinic" \\ Ohio\n— 3 é',
        organisation_type="hospital",
        jurisdiction="US-OH",
        consortium="sha256:" + "0" * 64,
        log_retention_days=3650,
        evidence=("risk-assessment",),
    )
    write_settings(tmp_path, settings)
    assert read_settings(tmp_path) == settings


def test_data_reads_back(tmp_path, dataset):
    other = DataSet(
        name="lung",
        population="lungs",
        source='/data/"odd" name.csv',
        categories=("health", "genetic"),
        permitted_purposes=("research", "quality"),
        legal_basis="consent",
        consent_expires=datetime(2030, 1, 1, tzinfo=UTC),
        retention_until="2040-06-30T00:00:00Z",
        deidentification="pseudonymised",
        evidence=("dpia",),
        public=True,
        epsilon_cap=0.1,
        delta=1e-9,
        filter="rdp(32)",
        unit="patient",
        patients="patient id",
        split_seed=7,
    )
    write_data(tmp_path, [dataset, other])
    assert read_data(tmp_path) == (dataset, other)


def test_what_is_left_out_is_the_strictest_that_still_works(tmp_path):
    (tmp_path / "data.toml").write_text(MINIMAL)
    (data,) = read_data(tmp_path)
    assert (data.public, data.filter, data.unit, data.permitted_purposes) == (False, "basic", "record", ())
    assert data.consent_expires == data.retention_until == FOREVER
    assert (data.epsilon_cap, data.delta) == (3.0, 1e-5)


def test_times_may_be_tomls_own(tmp_path):
    (tmp_path / "data.toml").write_text(MINIMAL + "consent_expires = 2030-01-01T02:00:00+02:00\n")
    assert read_data(tmp_path)[0].consent_expires == datetime(2030, 1, 1, tzinfo=UTC)


def test_no_data_at_all(tmp_path):
    (tmp_path / "data.toml").write_text("")
    assert read_data(tmp_path) == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("epsilon_cap = 3", "epsilon_cap = 0"), "epsilon"),
        (("epsilon_cap = 3", "epsilon_cap = nan"), "epsilon_cap"),
        (("epsilon_cap = 3", 'epsilon_cap = "3"'), "epsilon_cap"),
        (("epsilon_cap = 3", "epsilon_cap = true"), "epsilon_cap"),
        (("epsilon_cap = 3\n", ""), "epsilon_cap"),
        (("delta = 1e-5", "delta = 1"), "delta"),
        (("delta = 1e-5", "delta = 1e-5\nfilter = 'pld'"), "unknown privacy filter"),
        (("delta = 1e-5", "delta = 1e-5\nunit = 'family'"), "unit"),
        (("delta = 1e-5", "delta = 1e-5\nunit = 'patient'"), "needs `patients`"),
        (("delta = 1e-5", "delta = 1e-5\npatients = 'id'"), 'unit "record" none'),
        (("delta = 1e-5", "delta = 1e-5\npubic = true"), "pubic"),
        (("delta = 1e-5", "delta = 1e-5\npublic = 1"), "public"),
        (("delta = 1e-5", "delta = 1e-5\nconsent_expires = 2030-01-01"), "consent_expires"),
        (("delta = 1e-5", "delta = 1e-5\nsplit_seed = -1"), "split_seed"),
        (('["health"]', "[]"), "categories"),
        (('["health"]', '"health"'), "categories"),
        (('["health"]', '["Health Data"]'), "categories[0]"),
        (('"heart"', '"Heart"'), "name"),
        (("[[data]]", "[data]"), "nothing but [[data]] tables"),
        (("[[data]]", "[[dta]]"), "nothing but [[data]] tables"),
        (("[[data]]", "x = 1\n[[data]]"), "nothing but [[data]] tables"),
        (("[[data]]", "[[data"), "not TOML"),
        (("[[data]]", "data = 3\n[z]"), "nothing but"),
        (("[[data]]", "data = [3]\n#"), "table"),
    ],
)
def test_data_that_is_refused(tmp_path, change, says):
    assert change[0] in MINIMAL
    (tmp_path / "data.toml").write_text(MINIMAL.replace(*change))
    with pytest.raises(ConfigError) as error:
        read_data(tmp_path)
    assert says in str(error.value)
    assert error.value.where == str(tmp_path / "data.toml")
    assert error.value.fix


def test_two_data_sets_of_one_name(tmp_path):
    (tmp_path / "data.toml").write_text(MINIMAL + MINIMAL)
    with pytest.raises(ConfigError, match="two data sets are called heart"):
        read_data(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "name"),
        (b"name = 'cleveland'", "display_name"),
        (b"\xff\xfe", "not TOML"),
        (b"x" * (1 << 20) + b"x", "larger than"),
    ],
)
def test_settings_that_are_refused(tmp_path, content, says):
    (tmp_path / "silo.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=says) as error:
        read_settings(tmp_path)
    assert error.value.where == str(tmp_path / "silo.toml")


def test_a_folder_where_a_file_should_be(tmp_path):
    (tmp_path / "silo.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot read"):
        read_settings(tmp_path)


def test_data_sets_are_checked_where_they_are_built(dataset):
    with pytest.raises(ValidationError, match="epsilon"):
        DataSet(**{**dataset.model_dump(), "epsilon_cap": -1.0})
