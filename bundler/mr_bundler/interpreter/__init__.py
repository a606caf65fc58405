"""Base interpreters of bundles: pinned archives, or a host CPython made relocatable."""

from mr_bundler.interpreter.host_search import find_host_python
from mr_bundler.interpreter.prepare import Interpreter, prepare_interpreter

__all__ = ["Interpreter", "find_host_python", "prepare_interpreter"]
