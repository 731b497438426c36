"""``tokay explore``: a local page over a run's data, where examples can be mended by hand. No torch until a search.

Reading order: shown (text for a page), words (text search), cache (a run's tables in SQLite), browse (filters and
pages), story (one query, and why), decide (what a person says), searching (base and tuned), layout and corpusmap (the
map), fence (who may ask), app (all of it), server; pages/ is what the browser gets.
"""
