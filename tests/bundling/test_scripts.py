"""Console scripts run from anywhere, through links, and for both readers: the shell and Python."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mr_bundler.environment.scripts import entry_point_scripts, relocated_script
from mr_bundler.environment.wheel_record import InstalledDistribution
from mr_core.errors import BuildError
from support.building import Builder
from support.wheels import Wheel

BODY = b"import os, sys\nprint(os.path.basename(sys.argv[0]), *sys.argv[1:])\nprint(__doc__ and 'doc')\n"


def distribution(entry_points: str) -> InstalledDistribution:
    return InstalledDistribution(name="a", version="1", place="x/a-1.dist-info", files={}, entry_points=entry_points)


def place_script(bin_: Path, content: bytes, python: Path) -> Path:
    """Put a script and the host's Python beside each other, as in a release."""
    bin_.mkdir(parents=True)
    (bin_ / "python3").symlink_to(python / "bin/python3.12")
    script = bin_ / "tool"
    script.write_bytes(content)
    script.chmod(0o755)
    return script


def call(*command: str | Path, cwd: Path, **env: str) -> str:
    bare = {"PATH": os.defpath, **env}
    return subprocess.run([*command], capture_output=True, text=True, check=True, cwd=cwd, env=bare).stdout


@pytest.mark.parametrize("shell", ["", "sh", "bash", "dash"])
def test_found_through_every_way(tmp_path: Path, python: Path, shell: str) -> None:
    script = relocated_script("bin/tool", b"#!/some/python3\n" + BODY)
    assert script is not None
    there = place_script(tmp_path / "a re lease" / "ä" / "bin", script, python)
    links = tmp_path / "links"
    links.mkdir()
    (links / "python3").write_text("#!/bin/sh\nexit 99\n")  # another Python beside the link must not be taken
    (links / "python3").chmod(0o755)
    (links / "absolute").symlink_to(there)
    (links / "relative").symlink_to(Path("../a re lease/ä/bin/tool"))
    (links / "chain").symlink_to("relative")
    (tmp_path / "current").symlink_to(there.parent.parent)
    expected = "tool a b * $HOME\ndoc\n"
    for place in (there, links / "absolute", links / "relative", links / "chain", tmp_path / "current/bin/tool"):
        command = (shell, place) if shell else (place,)
        assert call(*command, "a b", "*", "$HOME", cwd=tmp_path) == expected
    assert call("env", "tool", "x", cwd=tmp_path, PATH=f"{there.parent}:{os.defpath}") == "tool x\ndoc\n"
    if shell:
        assert call(shell, "tool", "x", cwd=there.parent) == "tool x\ndoc\n"


def test_entry_points() -> None:
    text = (
        "[console_scripts]\nplain = pkg.mod:main\n[gui_scripts]\nWindow=pkg:App.run [extra]\n[other]\nbad = no script\n"
    )
    scripts = {script.path: script.content.decode() for script in entry_point_scripts(distribution(text))}
    assert list(scripts) == ["bin/plain", "bin/Window"]
    assert all(content.startswith("#!/bin/sh\n") for content in scripts.values())
    assert "from pkg.mod import main\n" in scripts["bin/plain"]
    assert "from pkg import App\n" in scripts["bin/Window"]
    assert "sys.exit(App.run())" in scripts["bin/Window"]
    for content in scripts.values():
        compile(content, "x", "exec")
    assert entry_point_scripts(distribution("")) == ()


@pytest.mark.parametrize(
    "line", ["../x = a:b", "a/b = a:b", "x = a", "x = a:b; import os", "-x = a:b", "x = a:b()", ". = a:b"]
)
def test_entry_points_that_are_none(line: str) -> None:
    with pytest.raises(BuildError, match="entry_points"):
        entry_point_scripts(distribution(f"[console_scripts]\n{line}\n"))


def test_what_uv_writes_for_long_paths(tmp_path: Path, python: Path) -> None:
    content = b"#!/bin/sh\n'''exec' \"/a path/python3\" \"$0\" \"$@\"\n' '''\n" + BODY
    script = relocated_script("bin/tool", content)
    assert script is not None
    assert b"/a path" not in script
    assert call(place_script(tmp_path / "bin", script, python), cwd=tmp_path) == "tool\ndoc\n"


def test_coding_is_kept(tmp_path: Path, python: Path) -> None:
    body = "# -*- coding: latin-1 -*-\nprint(ascii('ä'))\n".encode("latin-1")
    script = relocated_script("bin/tool", b"#!/x/python\n" + body)
    assert script is not None
    assert call(place_script(tmp_path / "bin", script, python), cwd=tmp_path) == "'\\xe4'\n"


@pytest.mark.parametrize("content", [b"#!/bin/sh\necho\n", b"#!/usr/bin/perl\n", b"\x7fELF", b"", b"print(1)\n"])
def test_other_programs_stay_as_they_are(content: bytes) -> None:
    assert relocated_script("bin/tool", content) is None


def test_a_script_that_cannot_be_both() -> None:
    content = b'#!python\n"""Doc."""\nfrom __future__ import annotations\n'
    with pytest.raises(BuildError, match="Cannot make `bin/tool` relocatable") as caught:
        relocated_script("bin/tool", content)
    assert "slim.remove" in caught.value.hint


def test_scripts_of_wheels(builder: Builder, tmp_path: Path) -> None:
    wheel = Wheel(
        name="scripted",
        files={
            "scripted.py": "import multiprocessing as m\ndef main():\n    c = m.get_context('spawn')\n"
            "    with c.Pool(1) as p:\n        print(p.map(abs, [-7]))\n",
            "scripted-1.0.data/scripts/old-style": (b"#!python\nimport beside\nprint(beside.x)\n", 0o755),
            "scripted-1.0.data/scripts/beside.py": (b"#!python\nx = 'beside'\n", 0o755),
            "scripted-1.0.data/scripts/shell": (b"#!/bin/sh\necho shell\n", 0o755),
        },
        scripts={"spawner": "scripted:main"},
    )
    prefix = builder.open(builder.build(wheel)).unpack(tmp_path / "tree")
    assert call(prefix / "bin/old-style", cwd=tmp_path) == "beside\n"
    assert call(prefix / "bin/shell", cwd=tmp_path) == "shell\n"
    assert call(prefix / "bin/spawner", cwd=tmp_path) == "[7]\n"
    for script in ("old-style", "spawner"):
        assert (prefix / "bin" / script).read_bytes().startswith(b"#!/bin/sh\n")
        assert (prefix / "bin" / script).stat().st_mode & 0o777 == 0o755
