"""Three nodes of a cluster, for a test of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from nats_cluster import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """None of the nodes runs yet."""
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()
