"""What both command lines share: sinks for events, and the mapping of errors to exit statuses."""
