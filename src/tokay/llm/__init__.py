"""The only door to an LLM: a client for OpenAI-compatible endpoints, and the ledger that pays for an answer once."""
