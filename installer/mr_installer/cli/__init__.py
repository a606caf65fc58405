"""The command line ``mr-install``."""


def run() -> None:
    """Run ``mr-install`` and end the process with its exit status."""
    from mr_core.cli.start import prepare_process  # noqa: PLC0415 - before everything heavy

    prepare_process()
    from mr_core.cli.session import run_command  # noqa: PLC0415 - importing this package must not need click
    from mr_installer.cli.main import main  # noqa: PLC0415 - same

    run_command(main, "mr-install")
