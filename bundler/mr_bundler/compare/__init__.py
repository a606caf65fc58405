"""What differs: between locks, bundles, and a bundle and its rebuild."""
