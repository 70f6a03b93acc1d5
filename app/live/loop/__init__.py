"""The ingest loop of the updater, with its checkpoints, its status and the topics of attributes."""
