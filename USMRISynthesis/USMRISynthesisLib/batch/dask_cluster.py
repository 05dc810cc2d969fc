"""The Dask cluster that a batch runs on: an address, processes of this machine, or jobs of SLURM.

    with cluster_for("slurm", options=read_options(Path("cluster.yaml")), workers=40) as cluster:
        client = distributed.Client(cluster)

Dask is an extra of the package (`cohort`); nothing else needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from USMRISynthesisLib.batch.resources import processors
from USMRISynthesisLib.errors import Failed, Refused

LOCAL, SLURM = "local", "slurm"
_REMEDY = "Install it: pip install 'USMRISynthesisLib[cohort]', on the machines of the workers as well."


def distributed() -> Any:
    """The module `distributed`. Raises Failed where Dask is not installed."""
    try:
        import distributed as module
    except ImportError as error:
        raise Failed("package", "This needs Dask, which is not installed.", _REMEDY) from error
    return module


def read_options(file: Path | None) -> dict[str, Any]:
    """The keyword arguments of the cluster in a YAML or JSON file; none without a file. Raises Refused."""
    if file is None:
        return {}
    distributed()
    import yaml  # Dask brings it

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Refused(
            "arguments", f"The cluster's options in {file.name} cannot be read.", "Write them as YAML: `cores: 4`."
        ) from error
    if not isinstance(content, dict):
        raise Refused("arguments", f"{file.name} holds no options.", "Write one a line, as YAML: `cores: 4`.")
    return content


@contextmanager
def cluster_for(name: str, *, options: Mapping[str, Any], workers: int) -> Iterator[Any]:
    """What `distributed.Client` connects to; it is closed at the end, if it was started here.

    Args:
        name: LOCAL, SLURM, or the address of a scheduler that runs already.
        options: of the cluster.
        workers: processes at a time; for SLURM jobs, of which as many run as there is work for.

    Raises:
        Refused: the options are not the cluster's. Failed: Dask is not installed, or the cluster does not start.
    """
    module = distributed()
    if name not in (LOCAL, SLURM):
        yield name
        return
    cluster = _local(module, options, workers) if name == LOCAL else slurm_cluster(options)
    with cluster:
        if name == SLURM:
            cluster.adapt(minimum=0, maximum=workers)
        yield cluster


def threads_for(name: str, workers: int) -> int | None:
    """Threads of one synthesis: a local process's share of the processors. None: what its job or worker was given."""
    return max(1, processors() // workers) if name == LOCAL else None


def slurm_cluster(options: Mapping[str, Any]) -> Any:
    """Jobs of SLURM, a worker and a case at a time each; what `options` lack is taken from Dask's `jobqueue.yaml`.

    Raises Failed where dask-jobqueue is not installed, Refused where cores, memory or an option's name are wrong.
    """
    distributed()
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise Failed("package", "This needs dask-jobqueue, which is not installed.", _REMEDY) from error
    import dask

    configured = dask.config.get("jobqueue.slurm", {}) or {}
    given = {**options}
    # One case at a time in a job, with all of its cores; Dask's own count would run as many cases as cores.
    extra = given.pop("worker_extra_args", None) or configured.get("worker-extra-args") or []
    given |= {"processes": 1, "worker_extra_args": [*extra, "--nthreads", "1"]}
    given.setdefault("python", sys.executable)
    try:
        return SLURMCluster(**given)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise Refused(
            "arguments",
            f"The options of the SLURM cluster cannot be used: {reason}.",
            "Give cores, memory, queue and walltime in the file of --dask-config, or in Dask's jobqueue.yaml.",
        ) from error


def _local(module: Any, options: Mapping[str, Any], workers: int) -> Any:
    """Processes of this machine, which are started again when one is lost."""
    given = {"n_workers": workers, "threads_per_worker": 1, "processes": True, "dashboard_address": "127.0.0.1:0"}
    try:
        return module.LocalCluster(**{**given, **options})
    except TypeError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise Refused(
            "arguments", f"The options of the cluster cannot be used: {reason}.", "Correct the file of --dask-config."
        ) from error
