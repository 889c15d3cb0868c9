"""Feast's registry file, replaced in one step: Feast writes into the file itself, and whoever reads meanwhile, or a process
that is killed, leaves or finds a part of it.
"""

from __future__ import annotations

from pathlib import Path

from google.protobuf.message import DecodeError

from core import logger
from core.files import replace_file
from feature_repo.feast_names import FileRegistryStore, Registry, RegistryConfig

LOG = logger("feature_repo")


class WholeFileRegistryStore(FileRegistryStore):
    """As Feast's own; a reader sees the old or the new registry, never a part."""

    def __init__(self, registry_config: RegistryConfig, repo_path: Path) -> None:
        super().__init__(registry_config, repo_path)
        self._place, self._absent = self._filepath, False

    def get_registry_proto(self) -> Registry:
        """The registry; a damaged file is put aside, and counts as none: `materialization.apply` fills a new one.

        Raises:
            FileNotFoundError: there is none.
        """
        self._absent = not self._place.is_file()
        try:
            return super().get_registry_proto()
        except DecodeError as error:
            aside = self._place.with_name(f"{self._place.name}.damaged")
            LOG.warning("%s is damaged (%s); it is now %s, and is made anew by materialize", self._place, error, aside)
            self._place.replace(aside)
            raise FileNotFoundError(f"Registry not found at path {self._place}; run `llm4msr materialize`") from error

    def _write_registry(self, registry_proto: Registry) -> None:
        if self._absent and not registry_proto.feature_views and self._place.is_file():
            return  # another process has filled it since this one found none and began an empty one

        def write(scratch: Path) -> None:
            self._filepath = scratch
            try:
                FileRegistryStore._write_registry(self, registry_proto)
            finally:
                self._filepath = self._place

        replace_file(self._place, write)
