"""Grids on a real Ray cluster of two nodes on this machine; needs the extra `ray`."""

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from refusal import refused

import bayeslora as bl

pytestmark = pytest.mark.filterwarnings("ignore")
ray = pytest.importorskip("ray", reason="needs Ray: pip install 'bayeslora[ray]'")


@pytest.fixture(scope="module", autouse=True)
def environment():
    """Let workers find the package, and compute as fast as the tests beside them."""
    root = str(Path(__file__).parents[2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", root + os.pathsep + os.environ.get("PYTHONPATH", ""))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # 15 by default
        yield


def test_workers_give_the_same_scores(finished, tmp_path, scores):
    content, _, result = finished
    assert scores(bl.experiment(content, tmp_path / "out", workers=2)) == scores(result)


@pytest.fixture(scope="module")
def cluster():
    """Start two nodes of one CPU each, as `ray start` does."""
    from ray.cluster_utils import Cluster

    local = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    local.second = local.add_node(num_cpus=1)
    local.wait_for_nodes()
    yield local
    ray.shutdown()
    local.shutdown()


def worker_at_work():
    """Return the id of a Ray worker of this process that computes a cell; None without one."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "ray::compute_apart" in " ".join(process.cmdline()):
                return process.pid
    return None


def test_a_killed_worker_and_a_lost_machine_lose_nothing(cluster, finished, grid, tmp_path, scores):
    killed, over = [], threading.Event()

    def break_things():
        while not over.is_set() and cluster.second is not None:
            fits = list((tmp_path / "out").glob("work/*/model"))
            worker = worker_at_work() if fits else None
            if worker is not None and not killed:
                os.kill(worker, signal.SIGKILL)
                killed.append(worker)
            elif worker not in (None, *killed):
                cluster.remove_node(cluster.second, allow_graceful=False)
                cluster.second = None
            time.sleep(0.02)

    thread = threading.Thread(target=break_things, daemon=True)
    thread.start()
    try:
        result = bl.experiment(grid, tmp_path / "out", ray=cluster.address)
    finally:
        over.set()
        thread.join()
    assert killed
    assert cluster.second is None
    assert result.failed == {}
    assert scores(result) == scores(finished[2])


def test_a_cluster_that_is_not_there_is_an_error(grid, tmp_path):
    with refused("input", "--ray"):
        bl.experiment(grid, tmp_path / "out", ray="127.0.0.1:1")
