"""What the server tells of itself: metrics, traces, and how its answers differ from training."""
