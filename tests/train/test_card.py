"""What the model card says of general ability."""

from __future__ import annotations

import pytest

from tokay.settings import TrainSettings
from tokay.train.card import card

TUNED = {
    "base": "minilm",
    "sources": {"rows": 10},
    "steps": 3,
    "planned": 3,
    "runs": 1,
    "tokens": 100,
    "useful": 0.9,
    "seconds": 1.0,
    "precision": "fp32",
    "trainable": 1,
    "parameters": 2,
    "soup": 1.0,
    "settings": "abc",
}
VERDICT = {"rows": [], "queries": 5, "sentence": "tuned is better"}


@pytest.mark.parametrize("fell", [True, False])
def test_a_loss_of_general_ability_is_a_warning(fell: bool) -> None:
    general = {"fell": fell, "sentence": "general ability: so and so"}
    text = card(TUNED, TrainSettings(), data="d", dims=(32, 16), verdict=VERDICT | {"general": general})
    warned = "**Warning.** " if fell else ""
    assert f"\n\n{warned}general ability: so and so\n\n## Training" in text
    assert ("**Warning.**" in text) == fell


def test_a_model_that_was_not_checked_has_no_line() -> None:
    text = card(TUNED, TrainSettings(), data="d", dims=(32, 16), verdict=VERDICT)
    assert "general ability" not in text
    assert "\n\n\n" not in text
