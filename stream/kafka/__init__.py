"""Everything that talks to brokers: the consumer as a source, the producer, topics and their rules."""
