"""A disk that is full, of the maps or of the index, until somebody makes room."""

from pathlib import Path

import pytest

from tests.support import small_disk
from tests.support.cluster import Cluster


@pytest.mark.parametrize("simulate", [False, True], ids=["real", "pretended"])
@pytest.mark.parametrize("what", ["maps", "index"])
def test_a_full_disk_loses_nothing(what: str, simulate: bool, cluster: Cluster, tmp_path: Path) -> None:
    """A full disk loses nothing and once there is room the run ends whole."""
    code = small_disk.run(cluster.new_request(), cluster.reference, tmp_path, what, simulate=simulate)
    said = (tmp_path / "said").read_text()
    assert code == 0, said[-3000:]
    assert "no space left" in said.lower(), "it was not full"
