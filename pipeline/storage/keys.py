"""Every object key below `runs/`, except those of the zarr arrays (see `pipeline.storage.arrays`)."""


def run_key(run_id: str) -> str:
    """Key of the run's own record."""
    return f"runs/{run_id}/run.json"


def manifest_key(run_id: str) -> str:
    """Key of the run's manifest."""
    return f"runs/{run_id}/manifest.jsonl.gz"


def tuning_prefix(run_id: str) -> str:
    """Key prefix of the run's measurements: `nodes.json`, `precision/<device kind>.json`."""
    return f"runs/{run_id}/tuning/"


def report_key(run_id: str, name: str) -> str:
    """Key of a report about a run, for example `audit-label.json`. Each report replaces the previous one."""
    return f"runs/{run_id}/reports/{name}"


def sidecar_key(run_id: str, number: int) -> str:
    """Key of the sidecar of a unit."""
    return f"runs/{run_id}/units/{number:06}.json"
