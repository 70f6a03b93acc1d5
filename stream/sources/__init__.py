"""Where events come from: the protocol of a source, and files as sources."""
