"""The first recipe of a backend."""
