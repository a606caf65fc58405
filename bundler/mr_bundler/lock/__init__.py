"""Which exact files a target is made of, and the choice of these files."""
