"""Is it better? Metrics, tests, the verdict and its report."""
