"""What the bundler and the installer must agree on: formats, errors, events, stores."""

__version__ = "0.1.0"
