"""What is in deploy/: alerts, the dashboard, and the manifests that start driftgraph."""
