"""What a manifest's references mean on this machine: volumes are folders, ConfigMaps stand in the same file.

Looks things up and writes ConfigMaps out as files; reads no data.
"""

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_api.issues import Issue
from llm_api.sources import ClaimRef, ConfigMapKey, Source, VolumeLocation

from llm_runner.local.manifest import Document

MOST_NAMES = 8


class Machine:
    """Gathers in ``issues`` what is not to be found, with its path in the resource, and goes on."""

    def __init__(self, config_maps: Mapping[str, Document], volumes: Mapping[str, Path], work_path: Path) -> None:
        self._config_maps = config_maps
        self._volumes = volumes
        self._work_path = work_path
        self.issues: list[Issue] = []

    def find_data(self, at: str, source: Source) -> str:
        """Address or path of a table."""
        if source.volume is not None:
            return str(self._find_file(f"{at}.volume", source.volume))
        if source.config_map is not None:
            return str(self._write_config_map(f"{at}.configMap", source.config_map))
        assert source.uri is not None, "a rule of Source: exactly one of the three"
        return source.uri

    def find_path(self, at: str, volume: VolumeLocation) -> Path | None:
        """A place on a volume, which may not be there yet."""
        folder = self.find_folder(at, volume)
        if folder is None:
            return None
        path = folder / volume.path
        if not path.resolve().is_relative_to(folder.resolve()):
            self.miss(f"{at}.path", f"{volume.path} leads out of the volume's folder {folder}; keep it inside")
            return None
        return path

    def find_folder(self, at: str, claim: ClaimRef) -> Path | None:
        """The folder that stands for a claim."""
        name = claim.claim_name
        if name not in self._volumes:
            self.miss(f"{at}.claimName", f"no folder stands for the claim {name} here; add --volume {name}=DIR")
        return self._volumes.get(name)

    def find_optional_folder(self, claim: ClaimRef | None) -> Path | None:
        """The same for a volume that a run can do without."""
        return None if claim is None else self._volumes.get(claim.claim_name)

    def miss(self, at: str, message: str) -> None:
        """What is missing is told once, at the first place that asks for it."""
        if message not in [issue.message for issue in self.issues]:
            self.issues.append(Issue(at, message))

    def _find_file(self, at: str, volume: VolumeLocation) -> Path | None:
        path = self.find_path(at, volume)
        if path is not None and not path.is_file():
            self.miss(f"{at}.path", f"there is no file {path}; {_describe_nearby(path)}")
        return path

    def _write_config_map(self, at: str, reference: ConfigMapKey) -> Path | None:
        config_map = self._config_maps.get(reference.name)
        if config_map is None:
            known = ", ".join(self._config_maps) if self._config_maps else "none"
            self.miss(f"{at}.name", f"there is no ConfigMap {reference.name} in this file; there is: {known}")
            return None
        try:
            content = _read_key(config_map, reference.key)
        except ValueError as error:
            self.miss(f"{at}.key", f"ConfigMap {reference.name} {error}")
            return None
        path = self._work_path / "config-maps" / reference.name / reference.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


def _read_key(config_map: Document, key: str) -> bytes:
    """Raises ValueError saying what is wrong with the ConfigMap."""
    texts, binaries = _mapping_at(config_map, "data"), _mapping_at(config_map, "binaryData")
    if key in texts and isinstance(texts[key], str):
        return str(texts[key]).encode()
    if key in texts:
        raise ValueError(f"has no text at {key}; write `{key}: |` and the text below it")
    if key in binaries:
        try:
            return base64.b64decode("".join(str(binaries[key]).split()), validate=True)
        except binascii.Error as error:
            raise ValueError(f"has no base64 at {key} of binaryData: {error}") from error
    raise ValueError(f"has no key {key}; there is: {', '.join([*texts, *binaries])}")


def _mapping_at(document: Document, key: str) -> Mapping[str, Any]:
    value = document.get(key)
    return value if isinstance(value, Mapping) else {}


def _describe_nearby(path: Path) -> str:
    """What a user may have meant instead."""
    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {folder} either"
    names = sorted(entry.name for entry in folder.iterdir())
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"in its folder there is: {', '.join(names[:MOST_NAMES])}{more}" if names else "its folder is empty"
