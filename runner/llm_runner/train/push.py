"""An artifact on its way to a hub, with what people should know before others can read it."""

from collections.abc import Sequence
from pathlib import Path

from llm_runner.data.pool import warn_of_rows
from llm_runner.report.reporter import Reporter
from llm_runner.report.sample import warn_of_sample
from llm_runner.store.hub import is_hidden, publish_to_hub


def push_artifact(
    folder: Path,
    repo_id: str,
    *,
    private: bool,
    token: str | None,
    reporter: Reporter,
    names: Sequence[str] | None = None,
) -> str:
    """Returns the commit's address. ``names``: the only files of the folder that are meant; None: all."""
    hidden = is_hidden(repo_id, private=private, token=token)
    if private and not hidden:
        reporter.warning(f"{repo_id} is there already and is public: an upload doesn't make it private")
    for warn_of in (warn_of_rows, warn_of_sample):
        for warning in warn_of(folder, repo_id, private=hidden):
            reporter.warning(warning)
    address = publish_to_hub(folder, repo_id, private=private, token=token, names=names)
    reporter.info(f"uploaded to {address}")
    return address
