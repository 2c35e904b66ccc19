"""Settings come from the environment, once, and say which variable is wrong."""

from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.settings import Settings


def test_an_empty_environment_uses_the_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty environment is embedded below the working folder."""
    monkeypatch.chdir(tmp_path)
    found = Settings.from_env({})
    assert found.home == tmp_path / "attributions"
    assert found.database_url == f"sqlite:///{tmp_path}/attributions/index.db"
    assert found.objects_url == f"file://{tmp_path}/attributions/objects"
    assert found.broker_url is None
    assert found.allowed_modules == ()


def test_home_moves_what_has_no_url_of_its_own(tmp_path: Path) -> None:
    found = Settings.from_env(
        {"ATTRIBATCH_HOME": str(tmp_path / "a b"), "ATTRIBATCH_OBJECTS_URL": "s3://bucket/prefix"}
    )
    assert found.database_url == f"sqlite:///{tmp_path}/a%20b/index.db"
    assert found.objects_url == "s3://bucket/prefix"


def test_lists_and_numbers_are_read() -> None:
    found = Settings.from_env({"ATTRIBATCH_ALLOWED_MODULES": "ours, theirs.models", "ATTRIBATCH_LEASE_SECONDS": "7.5"})
    assert found.allowed_modules == ("ours", "theirs.models")
    assert found.lease_seconds == 7.5


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan"])
def test_a_number_that_is_none_is_named(value: str) -> None:
    with pytest.raises(UsageError, match="ATTRIBATCH_LEASE_SECONDS"):
        Settings.from_env({"ATTRIBATCH_LEASE_SECONDS": value})


def test_what_is_not_set_is_none() -> None:
    found = Settings.from_env({"ATTRIBATCH_MAX_MEMORY_MB": "", "ATTRIBATCH_METRICS_PORT": "9100"})
    assert (found.max_memory_mb, found.metrics_port, found.log_format) == (None, 9100, None)


@pytest.mark.parametrize(
    ("name", "value"), [("MAX_MEMORY_MB", "2.5"), ("METRICS_PORT", "0"), ("LOG_FORMAT", "xml"), ("METRICS_PORT", "-1")]
)
def test_a_value_that_is_none_is_named(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"ATTRIBATCH_{name}"):
        Settings.from_env({f"ATTRIBATCH_{name}": value})


def test_a_worker_process_reads_the_same_from_what_it_is_given(tmp_path: Path) -> None:
    found = Settings.from_env({"ATTRIBATCH_HOME": str(tmp_path), "ATTRIBATCH_ALLOWED_MODULES": "ours, theirs"})
    assert Settings.from_env(found.to_env()) == found
