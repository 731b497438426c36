"""Gecko's data step: an LLM writes the queries and judges which passages answer them."""
