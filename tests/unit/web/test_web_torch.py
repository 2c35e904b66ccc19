"""The page works where torch is not installed: its image needs 2 GB less."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.installation import Installation

PROGRAM = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())

from fastapi.testclient import TestClient
from pipeline.api import Pipeline
from pipeline.web.app import create_app

run, other = sys.argv[2:]
paths = ["/runs", f"/runs/{run}", f"/runs/{run}/images", f"/runs/{run}/images/0", f"/runs/{run}/audit", "/schedules"]
paths += [f"/runs/{run}/images/0/{kind}.png" for kind in ("image", "layer", "map", "std")]
paths += [f"/compare?a={run}&b={other}", f"/runs/{run}/class?name=cat&by=label"]
with Pipeline.open(sys.argv[1]) as pipeline:
    app = create_app(pipeline)
    client = TestClient(app, base_url="http://127.0.0.1", headers={"accept": "text/html"}, follow_redirects=False)
    for path in paths:
        assert client.get(path).status_code == 200 or path.endswith("image.png"), path
    token = {"form_token": app.state.site.guard.form_token}
    assert client.post(f"/runs/{run}/retry", data=token).status_code == 303
    added = client.post("/schedules", data={**token, "run": run, "name": "n", "cron": "0 2 * * *"})
    assert "torch is not installed here" in added.text, added.text
    pipeline.cancel(run)
print("fine")
"""


@pytest.mark.slow
def test_every_page_without_torch(installation: Installation, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(installation.home, home)
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    command += [str(home), installation.other.id, installation.run.id]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stdout) == (0, "fine\n"), found.stderr
