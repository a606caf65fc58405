"""A release on disk, as seen from inside: where its parts lie and what its bundle config says about launching."""

from __future__ import annotations

import json
import sys

from mr_shim import CONTRACT
from mr_shim.errors import INVALID_INPUT, UNSUPPORTED, ShimError
from mr_shim.spec import LaunchSpec, ProbeSpec, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_REINSTALL = "install the backend again with `mr-install`"


class Release:
    """The release whose prefix this is; holding one means its bundle config could be read."""

    __slots__ = ("_config", "_path", "prefix")

    def __init__(self, prefix: str) -> None:
        """Read ``.mr/bundle.json`` below ``prefix``.

        Raises:
            ShimError: when it is missing or not JSON.
        """
        self.prefix = prefix
        self._path = f"{prefix}/.mr/bundle.json"
        try:
            with open(self._path, "rb") as file:  # noqa: PTH123 - `pathlib` costs 4 ms
                config = json.loads(file.read())
        except OSError as error:
            raise self._invalid(error.strerror or str(error)) from error
        except (ValueError, RecursionError) as error:
            raise self._invalid(str(error)) from error
        if not isinstance(config, dict):
            raise self._invalid("expected a table")
        self._config: dict[str, Any] = config

    @property
    def python(self) -> str:
        """The real interpreter, never a link to it: what runs keeps this release as ``sys.prefix`` for life."""
        return f"{self.prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"

    @property
    def shim(self) -> str:
        """The directory to put on ``sys.path`` for `mr_shim`."""
        return f"{self.prefix}/.mr/shim"

    @property
    def title(self) -> str:
        """Backend, version and target, as far as the bundle config has them."""
        return " ".join(str(self._config[key]) for key in ("backend", "version", "target") if key in self._config)

    def launch(self) -> LaunchSpec:
        """Return the launch spec.

        Raises:
            ShimError: when it is not valid, or written for a newer shim.
        """
        table = self._config.get("launch")
        contract = table.get("contract") if isinstance(table, dict) else None
        if isinstance(contract, int) and contract > CONTRACT:
            raise ShimError(
                UNSUPPORTED,
                f"Cannot read `{self._path}`: launch contract {contract} is newer than {CONTRACT}",
                _REINSTALL,
            )
        try:
            return LaunchSpec.from_json(table)
        except SpecError as error:
            raise self._invalid("; ".join(f"launch.{problem}" for problem in error.problems)) from error

    def probe(self) -> ProbeSpec:
        """Return the probe spec; raise `ShimError` when it is not valid."""
        try:
            return ProbeSpec.from_json(self._config.get("probe"))
        except SpecError as error:
            raise self._invalid("; ".join(f"probe.{problem}" for problem in error.problems)) from error

    def _invalid(self, reason: str) -> ShimError:
        return ShimError(INVALID_INPUT, f"Cannot read `{self._path}`: {reason}", _REINSTALL)
