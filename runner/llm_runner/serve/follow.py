"""Follows the artifact that a run names without a digest: a newly stored adapter takes the old one's place unmerged.

Requests that are on their way are answered by the old one. What can't be taken over while serving - another base,
another prompt, a whole model - is said, and waits for a restart; so is what is torn. With a digest nothing is followed:
a new digest is a new run.
"""

import tempfile
import threading
from pathlib import Path
from time import sleep

from llm_api.config.partial import PartialLLMConfig
from llm_api.run import ServeRun

from llm_runner.errors import RunError, StorageFailed
from llm_runner.predict.source import ModelSource, fetch_source
from llm_runner.report.reporter import Reporter
from llm_runner.serve.service import Service
from llm_runner.store.digest import SUMS_NAME, digest_of_sums
from llm_runner.store.s3 import get_text, s3_client
from llm_runner.store.s3_errors import s3_reading
from llm_runner.store.uri import local_path, parse_s3, scheme_of

POLL_SECONDS = 10.0
ANOTHER_CONFIG = "its config is another one"


class ArtifactFollower:
    """Make it before the artifact is loaded, so that nothing that is stored meanwhile is missed."""

    def __init__(self, run: ServeRun, reporter: Reporter, work_path: Path) -> None:
        self._run = run
        self._reporter = reporter
        self._work_path = work_path
        self._seen = self._read_sums()

    def start(self, service: Service) -> None:
        """Looks from time to time, until the engine is closed; does nothing where there is nothing to follow."""
        if self._seen is not None and service.models.find(self._run.name).adapter is not None:
            threading.Thread(target=self._keep_looking, args=[service], name="following", daemon=True).start()

    def look(self, service: Service) -> bool:
        """Whether there was a new adapter, which is served now."""
        sums = self._read_sums()
        if sums is None or sums == self._seen:
            return False
        self._seen = sums
        try:
            return self._take_over(service, digest_of_sums(sums.encode()))
        except RunError as error:
            self._say_kept(str(error))
            return False

    def _keep_looking(self, service: Service) -> None:
        while service.engine.is_open:
            self.look(service)
            sleep(POLL_SECONDS)

    def _take_over(self, service: Service, digest: str) -> bool:
        model = self._run.model.model_copy(update={"artifact_digest": digest})
        with tempfile.TemporaryDirectory(dir=self._work_path) as folder:
            source = fetch_source(self._run.model_copy(update={"model": model}), Path(folder))
            served = service.models.find(self._run.name)
            is_same = has_same_task(source.config, service.config_of(served))
            obstacle = find_obstacle(source, service) if is_same else ANOTHER_CONFIG
            if obstacle is not None or source.adapter_path is None:
                self._say_kept(f"{obstacle}; start the server anew to serve it")
                return False
            service.models.add_adapter(self._run.name, source.adapter_path, served.config)
        self._reporter.info(f"{self._run.name}: a new adapter is served, {digest}")
        return True

    def _say_kept(self, why: str) -> None:
        self._reporter.warning(f"{self._run.name}: a new artifact is stored, and the one before it stays served: {why}")

    def _read_sums(self) -> str | None:
        """None where there is no artifact of ours, or it can't be read at the moment."""
        uri = self._run.model.artifact_uri
        if uri is None or self._run.model.artifact_digest is not None:
            return None
        try:
            return read_sums(uri, self._run)
        except (RunError, OSError, UnicodeDecodeError):
            return None


def read_sums(uri: str, run: ServeRun) -> str | None:
    """Raises StorageFailed where a store can't be reached; None where nothing is published at the address."""
    if scheme_of(uri) == "s3":
        with s3_reading(uri, missing=StorageFailed, denied=StorageFailed):
            return get_text(s3_client(run.s3), parse_s3(uri).at(SUMS_NAME))
    path = local_path(uri) / SUMS_NAME
    return path.read_text("utf-8") if scheme_of(uri) == "file" and path.is_file() else None


def has_same_task(config: PartialLLMConfig, other: PartialLLMConfig) -> bool:
    """Whether they say the same, whatever they call the base."""
    own, others = (one.model_dump(exclude_unset=True, exclude={"base_model"}) for one in (config, other))
    return own == others


def find_obstacle(source: ModelSource, service: Service) -> str | None:
    """Why an artifact can't be served on the base that a server has."""
    if source.adapter_path is None:
        return "it is a whole model"
    if str(source.base_path) != service.model.name_or_path:
        return f"its base is {source.base_name}"
    return None
