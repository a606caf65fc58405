"""Options and command lines, decided without touching the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from mr_shim.command import server_command
from mr_shim.environ import clean_environment, redact_arguments, redact_environment
from mr_shim.errors import NOT_FOUND, UNSUPPORTED, USAGE, ShimError
from mr_shim.options import parse_options, resolve_paths
from mr_shim.spec import LaunchSpec
from mr_shim.workplace import temporary_directory

SPEC = LaunchSpec(
    module="backend.server",
    arguments=("serve",),
    options={
        "model": "--model",
        "host": "--host",
        "port": "--port",
        "uds": "--uds",
        "served_model_name": "--served-model-name",
        "chat_template": "--chat-template",
    },
    modes={"embedding": ("--task", "embed")},
)
PYTHON = ["/r/bin/python3.12", "-s", "-P", "-B", "-m", "backend.server", "serve"]


def command(*arguments: str, spec: LaunchSpec = SPEC) -> list[str]:
    return server_command(spec, parse_options(arguments), prefix="/r", python="/r/bin/python3.12")


def test_defaults_are_said_outright() -> None:
    assert command("--model", "/m") == [*PYTHON, "--model", "/m", "--host", "127.0.0.1", "--port", "8080"]


def test_every_option_in_both_spellings() -> None:
    separate = command(
        *("--model", "/m", "--host", "::1", "--port", "0", "--served_model_name", "a b", "--served-model-name", "c"),
        *("--chat-template", "t", "--mode", "embedding", "--", "--model", "--flag", "", "-1"),
    )
    joined = command(
        *("--model=/m", "--host=::1", "--port=0", "--served-model-name=a b", "--served_model_name=c"),
        *("--chat_template=t", "--mode=embedding", "--", "--model", "--flag", "", "-1"),
    )
    expected = ["--model", "/m", "--host", "::1", "--port", "0", "--served-model-name", "a b", "c"]
    expected += ["--chat-template", "t", "--task", "embed", "--model", "--flag", "", "-1"]
    assert separate == joined == [*PYTHON, *expected]


def test_a_socket_replaces_host_and_port() -> None:
    assert command("--model", "/m", "--uds", "/s") == [*PYTHON, "--model", "/m", "--uds", "/s"]


def test_a_positional_model_comes_before_options_that_could_swallow_it() -> None:
    spec = LaunchSpec(script="serve", options={"served_model_name": "--names", "model": "positional"})
    assert command("--model", "/m", "--served-model-name", "a", spec=spec) == ["/r/bin/serve", "/m", "--names", "a"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "`--model` is missing"),
        (["--model"], "`--model` needs a value"),
        (["--model", "--port", "1"], "`--model` needs a value"),
        (["--model="], "`--model` is empty"),
        (["/m"], "unexpected argument `/m`"),
        (["-m", "/m"], "unexpected argument `-m`"),
        (["--model", "/m", "--model", "/n"], "`--model` is given twice"),
        (["--model", "/m", "--port", "65536"], "port `65536` is not"),
        (["--model", "/m", "--port=-1"], "port `-1` is not"),
        (["--model", "/m", "--port", "٣"], "is not a number"),
        (["--model", "/m", "--port", "1e3"], "is not a number"),
        (["--model", "/m", "--host=--x"], "begins with `-`"),
        (["--model", "/m", "--served-model-name=-x"], "begins with `-`"),
        (["--model", "/m", "--uds", "/s", "--port", "1"], "`--uds` excludes"),
        (["--model", "/m", "--print=yes"], "`--print` takes no value"),
        (["--model", "/m", "--mod", "x"], "unknown option `--mod`"),
        (["--model", "/m\n"], "NUL or newline"),
        (["--model", "/m", "--", "a\x00b"], "NUL or newline"),
    ],
)
def test_wrong_usage_is_refused(arguments: list[str], text: str) -> None:
    with pytest.raises(ShimError) as caught:
        parse_options(arguments)
    assert caught.value.exit_code == USAGE
    assert caught.value.message.startswith("Cannot read the options: ")
    assert text in caught.value.message
    assert caught.value.hint


def test_a_misspelt_option_names_the_nearest() -> None:
    with pytest.raises(ShimError) as caught:
        parse_options(["--served-model-nmae", "x"])
    assert "did you mean `--served-model-name`?" in caught.value.hint


def test_what_a_backend_lacks_is_refused_with_its_reason() -> None:
    spec = LaunchSpec(module="m", options={"model": "--model"}, unsupported={"uds": "it has no sockets"})
    assert command("--model", "/m", spec=spec)[-2:] == ["--model", "/m"]
    for arguments, reason in (
        (["--uds", "/s"], "Cannot use `--uds`: it has no sockets"),
        (["--port", "1"], "Cannot use `--port`: this backend has no such option"),
        (["--served-model-name", "x"], "Cannot use `--served-model-name`: this backend has no such option"),
        (["--mode", "speech"], "Cannot serve mode `speech`: this backend has `completion`"),
    ):
        with pytest.raises(ShimError) as caught:
            command("--model", "/m", *arguments, spec=spec)
        assert (caught.value.exit_code, caught.value.message) == (UNSUPPORTED, reason)


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "chat.jinja").write_text("x")
    options = parse_options(["--model", "link", "--uds", "s", "--chat-template", "chat.jinja"])
    resolve_paths(options)
    assert (options.model, options.uds) == (f"{tmp_path}/link", f"{tmp_path}/s")
    assert options.chat_template == f"{tmp_path}/chat.jinja"
    inline = parse_options(["--model", "real", "--chat-template", "{{ messages }}"])
    resolve_paths(inline)
    assert inline.chat_template == "{{ messages }}"


@pytest.mark.parametrize(
    ("model", "hint"), [("nothing", "check the path"), ("org/model", "has to be downloaded first"), ("/no", "check")]
)
def test_a_missing_model_is_not_found(model: str, hint: str) -> None:
    with pytest.raises(ShimError) as caught:
        resolve_paths(parse_options(["--model", model]))
    assert caught.value.exit_code == NOT_FOUND
    assert hint in caught.value.hint


def test_a_socket_path_too_long_for_macos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShimError, match="longer than 103 bytes"):
        resolve_paths(parse_options(["--model", str(tmp_path), "--uds", "/" + "s" * 103]))


def environment(**inherited: str) -> dict[str, str]:
    return clean_environment(inherited, prefix="/r", directory="/here", temporary="/t", settings={"SET": "yes"})


def test_only_listed_variables_pass() -> None:
    kept = {"HOME": "/h", "LC_ALL": "C", "HF_TOKEN": "x", "CUDA_VISIBLE_DEVICES": "0", "https_proxy": "p", "TZ": "UTC"}
    dropped = {
        *("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES"),
        *("BASH_ENV", "ENV", "VIRTUAL_ENV", "CONDA_PREFIX", "GLIBC_TUNABLES", "OPENSSL_CONF", "SSLKEYLOGFILE"),
        *("CUDA_INJECTION64_PATH", "OMP_TOOL_LIBRARIES", "NCCL_NET_PLUGIN", "__PYVENV_LAUNCHER__", "FOO"),
    }
    result = environment(**kept, **dict.fromkeys(dropped, "/evil"))
    assert kept.items() <= result.items()
    assert not dropped & result.keys()
    assert "/evil" not in result.values()


def test_isolation_cannot_be_undone() -> None:
    result = clean_environment(
        {"PYTHONSAFEPATH": "", "TMPDIR": "/else"},
        prefix="/r",
        directory="/",
        temporary="/t",
        settings={"PYTHONNOUSERSITE": "", "TMPDIR": "/other"},
    )
    assert (result["PYTHONNOUSERSITE"], result["PYTHONSAFEPATH"], result["TMPDIR"]) == ("1", "1", "/t")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "/r/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        (".:bin::/a", "/r/bin:/a"),
        ("/a:/r/bin:/b", "/r/bin:/a:/b"),
    ],
)
def test_the_search_path_has_absolute_entries_only(path: str, expected: str) -> None:
    assert environment(PATH=path)["PATH"] == expected


def test_relative_paths_in_variables_keep_their_meaning() -> None:
    result = environment(HF_HOME="cache", SSL_CERT_FILE="ca.pem", VLLM_CACHE_ROOT="~/v", TORCH_HOME="")
    assert (result["HF_HOME"], result["SSL_CERT_FILE"]) == ("/here/cache", "/here/ca.pem")
    assert result["VLLM_CACHE_ROOT"] == "~/v"
    assert "TORCH_HOME" not in result


@pytest.mark.parametrize(
    ("inherited", "expected"),
    [
        ({"HOME": "/h"}, "/h/.cache/huggingface/hub"),
        ({}, "/t/hub"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HOME": "/h", "HF_HOME": "/f", "XDG_CACHE_HOME": "/x"}, "/f/hub"),
        ({"HOME": "/h", "HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/f"}, "/old"),
        ({"HOME": "/h", "HF_HUB_CACHE": "~/mine", "HF_HOME": "/f"}, "/h/mine"),
    ],
)
def test_the_hub_cache_is_where_the_libraries_look(inherited: dict[str, str], expected: str) -> None:
    assert environment(**inherited)["HF_HUB_CACHE"] == expected


def test_secrets_are_hidden() -> None:
    shown = redact_environment(
        {
            "VLLM_API_KEY": "s3cret",
            "HF_TOKEN": "s3cret",
            "https_proxy": "http://me:s3cret@p:1",
            "HTTP_PROXY": "a:s3cret@p",
        }
        | {"OTEL_EXPORTER_OTLP_HEADERS": "auth=s3cret", "TOKENIZERS_PARALLELISM": "false", "HF_TOKEN_PATH": "/p"}
    )
    assert "s3cret" not in str(shown)
    assert (shown["TOKENIZERS_PARALLELISM"], shown["HF_TOKEN_PATH"]) == ("false", "/p")
    assert shown["https_proxy"] == "http://***@p:1"
    arguments = ["--api-key", "-s3cret", "s3cret2", "--max-tokens", "5", "--hf-token=s3cret", "--tokenizer", "t"]
    assert redact_arguments(arguments) == [
        "--api-key",
        "***",
        "***",
        "--max-tokens",
        "5",
        "--hf-token=***",
        "--tokenizer",
        "t",
    ]


def test_the_private_directory_leaves_room_for_sockets() -> None:
    macos = "/var/folders/" + "x" * 2 + "/" + "y" * 30 + "/T"
    longest = temporary_directory("/r", {}).replace("/tmp", macos) + "/" + "u" * 36
    assert len(longest) <= 103
    assert temporary_directory("/r", {}) != temporary_directory("/s", {})
    assert temporary_directory("/r", {"TMPDIR": "relative"}) == temporary_directory("/r", {"TMPDIR": "/nothing-here"})
    assert Path(temporary_directory("/r", {})).parent == Path("/tmp")
