"""The environment of a server: an allow-list over the caller's, plus what isolates Python. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PYTHON_VARIABLES = {
    "PYTHONNOUSERSITE": "1",
    "PYTHONSAFEPATH": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",  # a log that ends in a crash must hold the last lines
}
"""Set last, so that neither the caller nor a launch spec can undo them."""
KEPT = frozenset(
    (
        *("HOME", "USER", "LOGNAME", "TERM", "COLORTERM", "NO_COLOR", "TZ", "LANG", "LANGUAGE"),
        *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    )
)
KEPT_PREFIXES = (
    *("LC_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "TOKENIZERS_", "SAFETENSORS_"),
    *("CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_", "NCCL_", "METAL_", "MTL_"),
    *("VLLM_", "MLX_", "TORCH_", "PYTORCH_", "TORCHINDUCTOR_", "TRITON_", "FLASHINFER_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "VECLIB_", "OTEL_"),
)
DROPPED = frozenset(
    (
        *("CUDA_INJECTION32_PATH", "CUDA_INJECTION64_PATH", "OMP_TOOL_LIBRARIES"),
        *("NCCL_NET_PLUGIN", "NCCL_TUNER_PLUGIN", "NCCL_PROFILER_PLUGIN"),
    )
)
"""Below a kept prefix, but they make a library load code from outside the bundle, as ``LD_PRELOAD`` does."""
PATHS = frozenset(
    (
        *("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_XET_CACHE", "HF_ASSETS_CACHE", "HF_TOKEN_PATH"),
        *("TRANSFORMERS_CACHE", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT", "TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR"),
        *("TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "CUDA_HOME"),
    )
)
"""Relative values of these are made absolute: the server gets another working directory."""
SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_SECRET_WORDS = frozenset(
    ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "CREDENTIALS", "KEY", "APIKEY", "HEADERS")
)
REDACTED = "***"


def clean_environment(
    inherited: Mapping[str, str],
    *,
    prefix: str,
    directory: str,
    temporary: str,
    settings: Mapping[str, str],
) -> dict[str, str]:
    """Return the server's whole environment.

    Args:
        inherited: The caller's environment.
        prefix: The release; its ``bin`` comes first on ``PATH``, so that children find its tools and its Python.
        directory: The caller's working directory.
        temporary: Private directory for temporary files.
        settings: What the launch spec sets; wins over the caller.
    """
    environment = {name: value for name, value in inherited.items() if _is_kept(name)}
    for name in PATHS & environment.keys():
        value = environment[name]
        if not value:
            del environment[name]
        elif not value.startswith(("/", "~", "$")):
            environment[name] = f"{directory}/{value}"
    environment["PATH"] = _search_path(inherited.get("PATH", ""), prefix)
    environment.update(settings)
    environment.update(PYTHON_VARIABLES, TMPDIR=temporary)
    environment["HF_HUB_CACHE"] = _hub_cache(environment, temporary)
    return environment


def _is_kept(name: str) -> bool:
    return name in KEPT or (name.startswith(KEPT_PREFIXES) and name not in DROPPED)


def _search_path(path: str, prefix: str) -> str:
    """Keep absolute entries only: an empty or relative one means the working directory."""
    places = [place for place in path.split(":") if place.startswith("/")] or list(SYSTEM_PATH)
    own = f"{prefix}/bin"
    return ":".join([own, *(place for place in places if place != own)])


def _hub_cache(environment: Mapping[str, str], temporary: str) -> str:
    """Where the Hugging Face libraries would look; said outright, because the directory is made to exist."""
    home = environment.get("HOME", "")
    if found := environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE"):
        place = found
    elif found := environment.get("HF_HOME"):
        place = f"{found}/hub"
    elif found := environment.get("XDG_CACHE_HOME"):
        place = f"{found}/huggingface/hub"
    else:
        place = "~/.cache/huggingface/hub"
    if place == "~" or place.startswith("~/"):
        place = home + place[1:] if home else f"{temporary}/hub"
    return place


def redact_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment``, sorted, fit to be shown: secrets and the user part of addresses are hidden."""
    return {name: _redact(name, environment[name]) for name in sorted(environment)}


def _redact(name: str, value: str) -> str:
    if is_secret(name):
        return REDACTED if value else ""
    scheme, separator, rest = value.partition("://")
    if separator and "@" in rest:
        return f"{scheme}://{REDACTED}@{rest.rpartition('@')[2]}"
    if name.lower().endswith("_proxy") and "@" in value:
        return f"{REDACTED}@{value.rpartition('@')[2]}"
    return value


def is_secret(name: str) -> bool:
    """Whether the value of a variable or option of this name is likely to be a secret."""
    words = name.upper().replace("-", "_").split("_")
    return not _SECRET_WORDS.isdisjoint(words) and words[-1] not in ("PATH", "FILE")


def redact_arguments(arguments: list[str]) -> list[str]:
    """Return ``arguments`` fit to be shown: what follows an option with a secret's name is hidden up to the next."""
    shown: list[str] = []
    first = hide = False
    for argument in arguments:
        if hide and (first or not argument.startswith("-")):
            shown.append(REDACTED)
            first = False
            continue
        name, equals, _ = argument.partition("=")
        secret = argument.startswith("-") and is_secret(name)
        hide = first = secret and not equals
        shown.append(f"{name}={REDACTED}" if secret and equals else argument)
    return shown
