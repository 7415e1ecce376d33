"""What a stage reports while it runs: metrics, timings, progress, `/metrics`."""
