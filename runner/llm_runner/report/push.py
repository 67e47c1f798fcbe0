"""Progress sent to the operator while a run works. A run never waits for it and never fails by it."""

import threading
from collections.abc import Callable
from pathlib import Path

import requests
from llm_api.report import Progress

from llm_runner.report.sink import Sink

SECONDS_BETWEEN_POSTS = 2.0
TIMEOUT_SECONDS = 3.0
"""To connect, and again between bytes of the answer."""
CLOSING_SECONDS = 5.0
"""How long the end of a run may wait for its last report."""


class ProgressPush(Sink):
    """Posts the newest report to ``url`` from a thread of its own; what came between two posts is dropped.

    The token is read for each post, as a projected one is replaced while the run goes on. The first failure is told to
    ``warn``, in the caller's thread and once; later ones are not.
    """

    def __init__(
        self,
        url: str,
        token_path: Path | None,
        warn: Callable[[str], None],
        seconds_between_posts: float = SECONDS_BETWEEN_POSTS,
    ) -> None:
        self._url = url
        self._token_path = token_path
        self._warn = warn
        self._pause_seconds = seconds_between_posts
        self._newest: Progress | None = None
        self._fault: str | None = None
        self._said_fault = False
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress-push", daemon=True)
        self._thread.start()

    def phase(self, progress: Progress) -> None:
        self._offer(progress)

    def step(self, progress: Progress) -> None:
        self._offer(progress)

    def close(self) -> None:
        """Sends the newest report, if it can be done soon."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(CLOSING_SECONDS)
        self._say_fault()

    def _offer(self, progress: Progress) -> None:
        with self._changed:
            self._newest = progress
            self._changed.notify()
        self._say_fault()

    def _say_fault(self) -> None:
        if self._fault is not None and not self._said_fault:
            self._said_fault = True
            self._warn(f"progress does not reach {self._url}: {self._fault}; the run goes on without it")

    def _run(self) -> None:
        with requests.Session() as session:
            session.trust_env = False  # a .netrc of the image would replace the token
            while (progress := self._take()) is not None:
                self._post(session, progress)
                self._closing.wait(self._pause_seconds)

    def _take(self) -> Progress | None:
        """The newest report, waiting for one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._closing.is_set())
            progress, self._newest = self._newest, None
        return progress

    def _post(self, session: requests.Session, progress: Progress) -> None:
        try:
            body = progress.model_dump_json(by_alias=True, exclude_none=True).encode()
            headers = {"Content-Type": "application/json", **self._authorization()}
            answer = session.post(self._url, data=body, headers=headers, timeout=TIMEOUT_SECONDS, allow_redirects=False)
            if answer.status_code >= 300:
                self._fault = f"HTTP {answer.status_code} {answer.reason}"
        except (OSError, ValueError) as error:  # requests' own errors are OSErrors; a malformed token is a ValueError
            self._fault = f"{type(error).__name__}: {error}"

    def _authorization(self) -> dict[str, str]:
        if self._token_path is None:
            return {}
        return {"Authorization": f"Bearer {self._token_path.read_text().strip()}"}
