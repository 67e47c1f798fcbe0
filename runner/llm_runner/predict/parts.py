"""Finished rows beside the output, so that a shard that was ended goes on, and the last one finds them all.

    OUTPUT.parts/RUN/part-SHARD-*.jsonl    records; each file is whole or not there
    OUTPUT.parts/RUN/done-SHARD            the shard has answered all its rows
    OUTPUT.report.json                     written after OUTPUT itself: the run is over, and what came of it

RUN is a digest of all that answers depend on, so that an edited run never takes up what another one has left. A shard
writes its mark before it looks for those of the others: whoever is last sees all of them, and merges. Two that end
together may both merge; they write the same bytes, and nothing is deleted before output and report are there. This
asks no more of a store than that what was written can be listed, as S3 promises; no lock, no wait, no leader.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from llm_api.run import S3Settings

from llm_runner.errors import OutputNotWritable, StorageFailed
from llm_runner.predict.record import Record
from llm_runner.store.publish import delete_folder, is_s3, local_writing
from llm_runner.store.s3 import get_text, list_objects, put_object, put_text, s3_client
from llm_runner.store.s3_errors import s3_reading, s3_writing
from llm_runner.store.uri import local_path, parse_s3

PARTS_SUFFIX, REPORT_SUFFIX = ".parts", ".report.json"


@dataclass(frozen=True)
class Parts:
    """Of one run."""

    output_uri: str
    run_digest: str
    s3: S3Settings

    @property
    def root_uri(self) -> str:
        return f"{self.output_uri}{PARTS_SUFFIX}"

    @property
    def folder_uri(self) -> str:
        return f"{self.root_uri}/{self.run_digest}"

    def save(self, shard: int, records: Sequence[Record]) -> None:
        text = "".join(record.to_line() for record in records)
        self._write(f"{self.folder_uri}/part-{shard:04}-{uuid4().hex}.jsonl", text)

    def load(self, shard: int | None = None) -> Iterator[Record]:
        """Records of one shard or of all, in no order; a row may come twice."""
        prefix = "part-" if shard is None else f"part-{shard:04}-"
        for name in self._names():
            if name.startswith(prefix):
                for line in self._read_part(name).splitlines():
                    yield Record.from_line(line)

    def mark_done(self, shard: int) -> None:
        self._write(f"{self.folder_uri}/done-{shard:04}", "")

    def count_done(self) -> int:
        return sum(name.startswith("done-") for name in self._names())

    def publish(self, file: Path) -> None:
        """The merged file, in the output's place in one step."""
        if is_s3(self.output_uri):
            with s3_writing(self.output_uri):
                put_object(s3_client(self.s3), file, parse_s3(self.output_uri))
            return
        with local_writing(self.output_uri):
            _replace(local_path(self.output_uri), lambda partial: shutil.copyfile(file, partial))

    def save_report(self, report: dict[str, Any]) -> None:
        text = json.dumps({"run": self.run_digest, **report}, indent=2, ensure_ascii=False, allow_nan=False)
        self._write(f"{self.output_uri}{REPORT_SUFFIX}", text + "\n")

    def load_report(self) -> dict[str, Any] | None:
        """None where this run is not over, or its output was taken away since."""
        text = self._read(f"{self.output_uri}{REPORT_SUFFIX}")
        try:
            report: Any = None if text is None else json.loads(text)
        except ValueError:
            return None
        is_own = isinstance(report, dict) and report.get("run") == self.run_digest
        return report if is_own and self._has_output() else None

    def delete(self) -> None:
        """What earlier runs for the same output have left, too."""
        delete_folder(self.root_uri, self.s3)

    def _has_output(self) -> bool:
        if not is_s3(self.output_uri):
            return local_path(self.output_uri).is_file()
        folder, _, name = self.output_uri.rpartition("/")
        with s3_reading(self.output_uri, missing=StorageFailed, denied=OutputNotWritable):
            return name in list_objects(s3_client(self.s3), parse_s3(folder))

    def _names(self) -> list[str]:
        if not is_s3(self.folder_uri):
            folder = local_path(self.folder_uri)
            return sorted(path.name for path in folder.glob("[!.]*")) if folder.is_dir() else []
        with s3_reading(self.folder_uri, missing=StorageFailed, denied=OutputNotWritable):
            return sorted(list_objects(s3_client(self.s3), parse_s3(self.folder_uri)))

    def _read_part(self, name: str) -> str:
        text = self._read(f"{self.folder_uri}/{name}")
        if text is None:
            raise StorageFailed(f"{self.folder_uri}/{name} was deleted while it was to be merged")
        return text

    def _read(self, uri: str) -> str | None:
        if not is_s3(uri):
            path = local_path(uri)
            return path.read_text("utf-8") if path.is_file() else None
        with s3_reading(uri, missing=StorageFailed, denied=OutputNotWritable):
            return get_text(s3_client(self.s3), parse_s3(uri))

    def _write(self, uri: str, text: str) -> None:
        if is_s3(uri):
            with s3_writing(uri):
                put_text(s3_client(self.s3), text, parse_s3(uri))
            return
        with local_writing(uri):
            _replace(local_path(uri), lambda partial: partial.write_text(text, "utf-8"))


def _replace(path: Path, write: Any) -> None:
    """Nobody sees a file half written, and two that write it don't mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{uuid4().hex}")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
