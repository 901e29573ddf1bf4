"""Grids on a real Ray cluster of two nodes on this machine; needs the extra `ray`."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from tiny import tiny_llama

import bayeslora as bl
from bayeslora.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")
ray = pytest.importorskip("ray", reason="needs Ray: pip install 'bayeslora[ray]'")


@pytest.fixture(scope="module")
def cluster():
    """Start two nodes of one CPU each, as `ray start` does."""
    from ray.cluster_utils import Cluster

    root = str(Path(__file__).parents[2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", root + os.pathsep + os.environ.get("PYTHONPATH", ""))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        local = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        local.second = local.add_node(num_cpus=1)
        local.wait_for_nodes()
        yield local
        ray.shutdown()
        local.shutdown()


def killed_worker(out, done):
    """Kill a Ray worker that computes a cell; append its process id to `done`."""
    while not done:
        busy = list(out.glob("work/*/model"))
        for stat in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = stat.read_text()
            except OSError:
                continue
            if busy and "ray::_compute_remotely" in command:
                os.kill(int(stat.parent.name), signal.SIGKILL)
                done.append(stat.parent.name)
                return
        time.sleep(0.02)


def test_a_killed_worker_loses_nothing(cluster, finished, grid, tmp_path, scores):
    done = []
    killer = threading.Thread(target=killed_worker, args=(tmp_path / "out", done), daemon=True)
    killer.start()
    try:
        result = bl.experiment(grid, tmp_path / "out", ray=cluster.address)
    finally:
        ended = [*done]
        done.append("over")
        killer.join()
    assert ended
    assert result.failed == {}
    assert scores(result) == scores(finished[2])


def test_a_lost_machine_loses_nothing(cluster, finished, grid, tmp_path, scores):
    def lose():
        while not list((tmp_path / "out").glob("work/*/model")):
            time.sleep(0.02)
        cluster.remove_node(cluster.second, allow_graceful=False)

    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    result = bl.experiment(grid, tmp_path / "out", ray=cluster.address)
    thread.join(1)
    assert not thread.is_alive()
    assert result.failed == {}
    assert scores(result) == scores(finished[2])


def test_a_machine_without_the_backbone_is_named_before_the_work(grid, tmp_path, monkeypatch):
    """The backbone exists when the command checks it and is gone when the worker does."""
    from bayeslora.experiments import run

    grid["backbones"] = str(tiny_llama(tmp_path / "here"))

    def moved(_grid):
        (tmp_path / "here").rename(tmp_path / "elsewhere")

    monkeypatch.setattr(run, "check_backbones", moved)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    with pytest.raises(InputError) as caught:
        bl.experiment(grid, tmp_path / "out", ray="local")
    ray.shutdown()
    assert "worker " in str(caught.value)
    assert "here" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_is_not_there_is_an_error(grid, tmp_path):
    with pytest.raises(InputError, match="--ray"):
        bl.experiment(grid, tmp_path / "out", ray="127.0.0.1:1")
