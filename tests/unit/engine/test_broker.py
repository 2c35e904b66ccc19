"""What is said of a broker's URL before anybody connects."""

import pytest

from pipeline.engine.broker import check_broker_url
from pipeline.errors import UsageError


@pytest.mark.parametrize("url", ["redis://host:6379/0", "rediss://:password@host/0", "sentinel://host:26379"])
def test_a_broker_that_is_known_passes(url: str) -> None:
    check_broker_url(url)


@pytest.mark.parametrize("url", ["foo://user:secret@host", "host:6379", ""])
def test_an_unknown_broker_is_refused_without_its_password(url: str) -> None:
    """A broker that is not known is refused without its password."""
    with pytest.raises(UsageError, match="write redis://") as refused:
        check_broker_url(url)
    assert "secret" not in str(refused.value)
