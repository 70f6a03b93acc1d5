"""The graph attention network: from sampled neighborhoods to vectors, the loss, and networks of others."""
