"""What needs the Hugging Face Hub."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

import tokay
from tokay.corpus import open_corpus

pytestmark = pytest.mark.network


def test_a_model_by_name_is_the_one_that_the_demo_carries() -> None:
    texts = ["read a csv file into a dictionary for each row", "x"]
    by_name = tokay.Embedder.load("sentence-transformers/all-MiniLM-L6-v2").encode(texts)
    np.testing.assert_allclose(by_name, tokay.Embedder.load("minilm").encode(texts), atol=1e-5)


def test_a_dataset_by_name_streams() -> None:
    documents = list(islice(open_corpus("hf:stanfordnlp/imdb:test").documents(lambda _: None), 3))
    assert len(documents) == 3
    assert all(d.text for d in documents)


def test_names_that_the_hub_does_not_know() -> None:
    with pytest.raises(tokay.TokayError, match="the Hub has no model"):
        tokay.Embedder.load("tokay-tests/there-is-no-such-model")
