"""How a Redis is reached, alone, behind Sentinels or as a Cluster, and what an error of it means."""
