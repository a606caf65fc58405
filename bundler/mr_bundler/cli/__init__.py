"""The command line ``mr-bundle``."""

import sys

_NEEDS_EXTRA = ("docker", "packaging", "tomli_w", "uv")


def run() -> None:
    """Run ``mr-bundle`` and end the process with its exit status."""
    from mr_core.cli.start import prepare_process  # noqa: PLC0415 - before everything heavy

    prepare_process()
    from mr_core.cli.session import run_command  # noqa: PLC0415 - so that a missing extra can be told apart

    try:
        from mr_bundler.cli.main import main  # noqa: PLC0415 - same
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _NEEDS_EXTRA:
            raise
        sys.stderr.write(f"error: Cannot start mr-bundle: the library `{error.name}` is missing\n")
        sys.stderr.write('hint: pip install "mr-backends[build]"\n')
        sys.exit(9)
    run_command(main, "mr-bundle")
