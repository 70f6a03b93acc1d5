"""Other ways to read vectors from Redis, Feast and RedisVL, for ``benchmarks/publish_reads.py``."""
