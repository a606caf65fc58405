"""The text of ``bin/mr-serve``: the smallest shell script that hands its arguments to the shim."""

from __future__ import annotations

from mr_shim.command import BOOTSTRAP, SHIM_FLAGS

LAUNCHER = f"""\
#!/bin/sh
# Start this backend's server: mr-serve --model DIR [OPTIONS] [-- BACKEND OPTIONS]
# The interpreter that lies beside this name decides which release runs, before links are followed; a name elsewhere
# is followed link by link until one lies in a release or in a backend's bin (both have a .mr beside bin).
self=$0
case $self in
*/*) ;;
*) if [ -f "./$self" ]; then self=./$self; else self=$(command -v -- "$self"); fi ;;
esac
while dir=${{self%/*}}; ! {{ [ -d "$dir/../.mr" ] && [ -x "$dir/python3" ]; }}; do
    if ! [ -L "$self" ]; then
        echo "error: Cannot start the server: no Python of a release lies beside \\`$self\\`" >&2
        echo "hint: link to mr-serve instead of copying it, or install the backend again" >&2
        exit 4
    fi
    next=$(readlink -- "$self")
    case $next in
    /*) self=$next ;;
    *) self=$dir/$next ;;
    esac
done
exec "$dir/python3" {" ".join(SHIM_FLAGS)} -c '{BOOTSTRAP}' serve "$@"
"""
"""POSIX shell, tried with dash; nothing in it interprets the arguments."""
