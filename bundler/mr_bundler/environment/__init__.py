"""The tree that becomes a bundle: composed of parts, slimmed, with scripts, bytecode and the shim."""
