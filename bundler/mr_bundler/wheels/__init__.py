"""Wheels: resolved and installed through uv, fetched by address, built from commits."""
