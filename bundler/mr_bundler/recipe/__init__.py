"""What people write: the recipe, parsed strictly."""
