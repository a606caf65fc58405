"""The architecture is a test: who may import whom, where third-party libraries live, how large a module may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "mr_shim": ROOT / "runtime_shim" / "mr_shim",
    "mr_core": ROOT / "installer" / "mr_core",
    "mr_installer": ROOT / "installer" / "mr_installer",
    "mr_bundler": ROOT / "bundler" / "mr_bundler",
}
MAY_IMPORT = {
    "mr_shim": set(),
    "mr_core": {"mr_shim"},
    "mr_installer": {"mr_shim", "mr_core"},
    "mr_bundler": {"mr_shim", "mr_core", "mr_installer"},
}
# Third-party library → the modules (or packages, with a trailing dot) that may import it.
BORDERS = {
    "requests": {"mr_core.registry_session"},
    "urllib3": {"mr_core.registry_session"},
    "oras": {"mr_core.registry_auth"},
    "backports": {"mr_core.compression"},
    "compression": {"mr_core.compression"},
    "packaging": {"mr_bundler."},
    "rich": {"mr_core.cli.console"},
    "click": {"mr_core.cli.", "mr_installer.cli.", "mr_bundler.cli."},
    "tomli_w": {"mr_bundler."},
    "uv": {"mr_bundler.wheels.uv_process"},
    "docker": {"mr_bundler.export.engine"},
}
MOST_LINES = 400


def modules() -> list[tuple[str, Path]]:
    found = []
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *(part for part in parts if part != "__init__")))
            found.append((name, path))
    return found


def names_a_library(node: ast.stmt) -> bool:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    return any(name.partition(".")[0] in BORDERS for name in names)


def imports(path: Path) -> set[str]:
    found = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = [item for item in node.body if not names_a_library(item)]  # for annotations alone
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize(("name", "path"), modules(), ids=[name for name, _ in modules()])
def test_imports_follow_the_table(name: str, path: Path) -> None:
    package = name.partition(".")[0]
    for imported in imports(path):
        top = imported.partition(".")[0]
        if top == package or top in sys.stdlib_module_names or top == "__future__":
            continue
        if top in PACKAGES:
            assert top in MAY_IMPORT[package], f"{name} must not import {imported}"
            if package == "mr_core":
                assert imported == "mr_shim.spec", f"{name} may import mr_shim.spec only, not {imported}"
            if package == "mr_bundler" and top == "mr_installer":
                assert imported.startswith("mr_installer.extract"), f"{name}: of the installer, only the tar reader"
                assert name in {"mr_bundler.unpack", "mr_bundler.export.reroot"}, f"{name}: layers are read there only"
            continue
        allowed = BORDERS.get(top)
        assert allowed is not None, f"{name} imports {top}: name its border in this test"
        assert any(name == place or (place.endswith(".") and name.startswith(place)) for place in allowed), (
            f"{name} imports {top}, whose border is {', '.join(sorted(allowed))}"
        )


@pytest.mark.parametrize(("name", "path"), modules(), ids=[name for name, _ in modules()])
def test_modules_are_small(name: str, path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES, f"{name} has {lines} lines: it holds two things"


def test_component_folders_hold_named_packages_only() -> None:
    for folder in ("bundler", "installer", "runtime_shim"):
        assert not (ROOT / folder / "__init__.py").exists(), f"{folder}/ must not be a package"
        assert (ROOT / folder / "README.md").is_file(), f"{folder}/ has no README"


def test_vocabulary_of_file_names() -> None:
    avoided = {"utils", "util", "helper", "helpers", "manager", "info", "data", "handle", "misc", "common"}
    for name, _ in modules():
        words = set(name.replace(".", "_").split("_"))
        assert not words & avoided, f"{name}: the vocabulary avoids {words & avoided}"


def test_library_imports_without_the_optional_libraries() -> None:
    blocked = ("rich", "click", "docker", "uv", "tomli_w")
    code = (
        "import sys\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        "import mr_installer\n"
        "for name in mr_installer.__all__: getattr(mr_installer, name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_library_code_does_not_print() -> None:
    for name, path in modules():
        if ".cli" in name or name.startswith("mr_shim"):
            continue
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        printing = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in {"print", "exit"}]
        assert not printing, f"{name} prints or exits"
