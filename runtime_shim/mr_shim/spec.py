"""Launch and probe specs: the data in a bundle that says how its server is started and what proves that it works.

The shim reads this before every ``exec``, so nothing here may cost start-up time: ``dataclasses`` (18 ms) and
``typing`` (10 ms) alone would take most of the shim's 30 ms. The classes below behave like frozen dataclasses.
"""

from __future__ import annotations

from mr_shim import CONTRACT

TYPE_CHECKING = False  # what `typing` calls it, without importing `typing`
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, TypeVar

    Kind = TypeVar("Kind", bound="_Value")

OPTION_NAMES = ("model", "host", "port", "uds", "served_model_name", "chat_template")
"""Options every backend is asked for by the same name; a launch spec says how the backend spells each."""
POSITIONAL = "positional"
STOP_SIGNALS = ("SIGTERM", "SIGINT")
_SCALARS = (str, int)


class SpecError(ValueError):
    """A launch or probe spec is not valid; ``problems`` lists every reason as ``path: text``."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


class _Value:  # noqa: PLW1641 - unhashable on purpose: its fields hold dictionaries
    """An immutable, unhashable record of its slots: equal by value, readable, safe to copy and to pickle."""

    __slots__: tuple[str, ...] = ()

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self._values() == other._values()

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self._values().items())
        return f"{type(self).__name__}({inside})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"cannot assign to `{name}` of {type(self).__name__}: it is immutable")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"cannot delete `{name}` of {type(self).__name__}: it is immutable")

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _rebuild, (type(self), self._values())

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back to an equal spec."""
        return {name: _plain(value) for name, value in self._values().items()}


def _rebuild(kind: type[Kind], values: dict[str, Any]) -> Kind:
    return kind(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value]


class LaunchSpec(_Value):
    """How one backend's server is started, watched and stopped.

    Attributes:
        contract: Version of this format.
        module: Run as ``python -m module``; exactly one of ``module`` and ``script`` is set.
        script: Console script below ``bin/`` of the release.
        arguments: Fixed arguments, before everything else.
        options: For each of `OPTION_NAMES` the backend has: its flag, or ``positional``.
        unsupported: For options it lacks: the reason, shown to the user.
        modes: Extra arguments by mode name (``completion`` is the default mode).
        environment: Variables to set for the server.
        health_path: HTTP path that answers 200 once the server is ready; printable ASCII without spaces.
        start_timeout: Seconds until a start counts as failed.
        stop_signal: Signal that asks the server to end.
        stop_grace: Seconds between that signal and SIGKILL.
    """

    __slots__ = (
        "arguments",
        "contract",
        "environment",
        "health_path",
        "modes",
        "module",
        "options",
        "script",
        "start_timeout",
        "stop_grace",
        "stop_signal",
        "unsupported",
    )
    contract: int
    module: str
    script: str
    arguments: tuple[str, ...]
    options: dict[str, str]
    unsupported: dict[str, str]
    modes: dict[str, tuple[str, ...]]
    environment: dict[str, str]
    health_path: str
    start_timeout: int
    stop_signal: str
    stop_grace: int

    def __init__(
        self,
        *,
        contract: int = CONTRACT,
        module: str = "",
        script: str = "",
        arguments: tuple[str, ...] = (),
        options: dict[str, str] | None = None,
        unsupported: dict[str, str] | None = None,
        modes: dict[str, tuple[str, ...]] | None = None,
        environment: dict[str, str] | None = None,
        health_path: str = "/health",
        start_timeout: int = 300,
        stop_signal: str = "SIGTERM",
        stop_grace: int = 10,
    ) -> None:
        keep = object.__setattr__
        keep(self, "contract", contract)
        keep(self, "module", module)
        keep(self, "script", script)
        keep(self, "arguments", arguments)
        keep(self, "options", {} if options is None else options)
        keep(self, "unsupported", {} if unsupported is None else unsupported)
        keep(self, "modes", {} if modes is None else modes)
        keep(self, "environment", {} if environment is None else environment)
        keep(self, "health_path", health_path)
        keep(self, "start_timeout", start_timeout)
        keep(self, "stop_signal", stop_signal)
        keep(self, "stop_grace", stop_grace)

    @classmethod
    def from_json(cls, value: Any, *, strict: bool = False) -> LaunchSpec:
        """Parse the ``launch`` table of a recipe (``strict``: unknown fields are errors) or of a bundle.

        Raises:
            SpecError: listing every problem with its path.
        """
        read = _Reader(value, strict=strict)
        spec = cls(
            contract=read.integer("contract", CONTRACT, 1, 1 << 16),
            module=read.text("module"),
            script=read.text("script"),
            arguments=read.texts("arguments"),
            options=read.text_map("options", OPTION_NAMES),
            unsupported=read.text_map("unsupported", OPTION_NAMES),
            modes={name: tuple(args) for name, args in read.lists("modes").items()},
            environment=read.text_map("environment"),
            health_path=read.text("health_path", "/health"),
            start_timeout=read.integer("start_timeout", 300, 1, 24 * 3600),
            stop_signal=read.text("stop_signal", "SIGTERM"),
            stop_grace=read.integer("stop_grace", 10, 0, 3600),
        )
        if bool(spec.module) == bool(spec.script):
            read.problems.append("module: exactly one of `module` and `script` is needed")
        if spec.script and ("/" in spec.script or spec.script.startswith(".")):
            read.problems.append("script: must be a file name below bin/")
        if spec.stop_signal not in STOP_SIGNALS:
            read.problems.append(f"stop_signal: must be one of {', '.join(STOP_SIGNALS)}")
        if not spec.health_path.startswith("/"):
            read.problems.append("health_path: must begin with `/`")
        if not all("!" <= letter <= "~" for letter in spec.health_path):
            read.problems.append("health_path: must be printable ASCII without spaces")
        read.problems.extend(
            f"environment.{name}: is not a variable name"
            for name in spec.environment
            if not name or "=" in name or "\x00" in name
        )
        read.problems.extend(
            f"options.{name}: also listed under `unsupported`" for name in spec.options if name in spec.unsupported
        )
        if "model" not in spec.options:
            read.problems.append("options.model: required string is missing")
        read.finish()
        return spec

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back to an equal spec."""
        value = super().to_json()
        del value["script" if self.module else "module"]
        return value


class ProbeSpec(_Value):
    """What must hold before a release may become active.

    Attributes:
        imports: Modules to import with the release's own Python, in this order.
        versions: Distributions whose version is reported.
        accelerator: Python expression-free check ``module:attribute`` that must call to a true value, or empty.
        timeout: Seconds for the whole probe.
    """

    __slots__ = ("accelerator", "imports", "timeout", "versions")
    imports: tuple[str, ...]
    versions: tuple[str, ...]
    accelerator: str
    timeout: int

    def __init__(
        self,
        *,
        imports: tuple[str, ...] = (),
        versions: tuple[str, ...] = (),
        accelerator: str = "",
        timeout: int = 120,
    ) -> None:
        keep = object.__setattr__
        keep(self, "imports", imports)
        keep(self, "versions", versions)
        keep(self, "accelerator", accelerator)
        keep(self, "timeout", timeout)

    @classmethod
    def from_json(cls, value: Any, *, strict: bool = False) -> ProbeSpec:
        """Parse the ``probe`` table of a recipe or bundle; raise `SpecError` with every problem."""
        read = _Reader(value, strict=strict)
        spec = cls(
            imports=read.texts("imports"),
            versions=read.texts("versions"),
            accelerator=read.text("accelerator"),
            timeout=read.integer("timeout", 120, 1, 3600),
        )
        if not spec.imports:
            read.problems.append("imports: at least one module is needed")
        read.problems.extend(
            f"imports[{index}]: `{name}` is not a module name"
            for index, name in enumerate(spec.imports)
            if not _is_dotted(name)
        )
        module, colon, attribute = spec.accelerator.partition(":")
        if spec.accelerator and not (colon and _is_dotted(module) and _is_dotted(attribute)):
            read.problems.append("accelerator: must have the form `module:attribute`")
        read.finish()
        return spec


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


class _Reader:
    """Reads one table of plain values and collects problems."""

    def __init__(self, value: Any, *, strict: bool) -> None:
        self.problems: list[str] = []
        self._strict = strict
        self._seen: set[str] = set()
        self._table: dict[str, Any] = value if isinstance(value, dict) else {}
        if not isinstance(value, dict):
            self.problems.append("expected a table")

    def _get(self, key: str, kind: type, default: Any) -> Any:
        self._seen.add(key)
        value = self._table.get(key)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.problems.append(f"{key}: expected {_NAMES[kind]}")
            return default
        return value

    def _clean(self, value: Any, path: str) -> str:
        if not isinstance(value, str) or "\x00" in value or "\n" in value:
            self.problems.append(f"{path}: expected a string without NUL and newline")
            return ""
        return value

    def text(self, key: str, default: str = "") -> str:
        return self._clean(self._get(key, str, default), key)

    def integer(self, key: str, default: int, least: int, most: int) -> int:
        value: int = self._get(key, int, default)
        if not least <= value <= most:
            self.problems.append(f"{key}: {value} is not between {least} and {most}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(self._clean(item, f"{key}[{i}]") for i, item in enumerate(self._get(key, list, [])))

    def lists(self, key: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, items in self._get(key, dict, {}).items():
            if not isinstance(items, list):
                self.problems.append(f"{key}.{name}: expected a list")
                continue
            found[name] = [self._clean(item, f"{key}.{name}[{i}]") for i, item in enumerate(items)]
        return found

    def text_map(self, key: str, allowed: tuple[str, ...] = ()) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, item in self._get(key, dict, {}).items():
            if allowed and name not in allowed:
                if self._strict:
                    self.problems.append(f"{key}.{name}: unknown field; known here: {', '.join(allowed)}")
                continue
            found[name] = self._clean(item, f"{key}.{name}")
        return found

    def finish(self) -> None:
        if self._strict:
            known = ", ".join(sorted(self._seen))
            self.problems.extend(
                f"{key}: unknown field; known here: {known}" for key in self._table if key not in self._seen
            )
        if self.problems:
            raise SpecError(self.problems)


_NAMES: dict[type, str] = {str: "a string", int: "an integer", list: "a list", dict: "a table"}
