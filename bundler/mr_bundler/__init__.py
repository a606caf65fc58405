"""From a recipe to a bundle: lock, assemble, audit, pack and push backends."""
