"""From an environment to an OCI image: layers, tars, documents."""
