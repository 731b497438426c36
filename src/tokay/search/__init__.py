"""What answers a query: dense vectors, BM25, and both fused."""
