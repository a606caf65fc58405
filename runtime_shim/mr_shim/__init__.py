"""The runtime shim: starts a backend's own server the same way everywhere. Standard library only."""

CONTRACT = 1
"""Version of the launch spec this shim understands; a bundle with a higher one needs a newer shim."""
