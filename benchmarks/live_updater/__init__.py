"""``driftgraph run`` under measurement: a broker, events on a topic, and the updater's process."""
