"""Who asked an API server for what: its audit log, read as counts. Judges nothing."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

WRITING_VERBS = frozenset({"create", "update", "patch", "delete", "deletecollection"})


class Request(NamedTuple):
    verb: str
    resource: str
    """With its subresource, as in jobs/status."""

    @property
    def is_write(self) -> bool:
        return self.verb in WRITING_VERBS


class AuditLog:
    """Of one user; ``flags`` are for the API server that is to keep it."""

    def __init__(self, folder: Path, user: str) -> None:
        self._path = folder / "audit.log"
        self._policy_path = folder / "audit-policy.json"
        self._read_bytes = 0
        rules = [{"level": "Metadata", "users": [user]}, {"level": "None"}]
        policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules}
        self._policy_path.write_text(json.dumps(policy))

    @property
    def flags(self) -> list[str]:
        return [
            f"--audit-policy-file={self._policy_path}",
            f"--audit-log-path={self._path}",
            "--audit-log-maxsize=2000",
        ]

    def count_new(self) -> Counter[Request]:
        """Requests that were answered since this was asked last. Watches that are still open aren't."""
        with self._path.open("rb") as log:
            log.seek(self._read_bytes)
            lines = log.read().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        self._read_bytes += sum(len(line) for line in whole)
        entries = map(json.loads, whole)
        return Counter(_to_request(entry) for entry in entries if entry["stage"] == "ResponseComplete")


def count_writes(requests: Counter[Request]) -> int:
    """All but the renewals of a Lease, which say that somebody leads and change nothing."""
    return sum(count for request, count in requests.items() if request.is_write and request.resource != "leases")


def _to_request(entry: dict[str, Any]) -> Request:
    about = entry.get("objectRef", {})
    names = (about.get("resource", entry["requestURI"].partition("?")[0]), about.get("subresource"))
    return Request(entry["verb"], "/".join(name for name in names if name is not None))
