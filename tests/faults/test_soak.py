"""Ten seconds of what `make soak` does for three minutes."""

from tests.faults.soak import soak
from tests.support.cluster import Cluster


def test_ten_seconds_of_everything_at_random(cluster: Cluster) -> None:
    said: list[str] = []
    verdict = soak(cluster, seed=1, seconds=10, say=said.append)
    assert verdict.startswith("whole: ")
    assert len(said) > 5
