"""Training: losses, batches and the loop. The loop does not know what it trains."""
