"""Whatever is asked of the operations that the server describes, it never fails by itself."""

import shutil
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from pipeline.api import Pipeline
from pipeline.web.app import create_app
from tests.support.installation import Installation

TOKEN = "a token that is long enough"
BEARER = {"authorization": f"Bearer {TOKEN}"}
EXAMPLES = 6  # of each of some 40 operations

sparing = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def schema(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[schemathesis.BaseSchema]:
    """The operations of a server of a copy, asked by somebody who knows the token: changes are carried out."""
    home = tmp_path_factory.mktemp("fuzzed") / "home"
    shutil.copytree(installation.home, home)
    with Pipeline.open(home) as pipeline:
        app = create_app(pipeline, token=TOKEN, names=["testserver"])
        yield schemathesis.openapi.from_asgi("/openapi.json", app, headers=BEARER)


@pytest.mark.slow
def test_no_request_makes_the_server_fail(schema: schemathesis.BaseSchema, installation: Installation) -> None:
    codes: dict[int, int] = {}

    def ask(case: schemathesis.Case) -> None:
        if "run" in case.path_parameters and len(str(case.path_parameters["run"])) % 2:
            case.path_parameters["run"] = installation.run.id  # half of them reach what lies behind the name of a run
        found = case.call(headers=BEARER).status_code
        codes[found] = codes.get(found, 0) + 1
        assert found < 500, case.as_curl_command()

    operations = [each.ok() for each in schema.get_all_operations()]
    assert len(operations) > 30
    for operation in operations:
        sparing(given(operation.as_strategy())(ask))()
    assert codes.get(200, 0) > 50, codes
    assert not {401, 421} & set(codes), codes
