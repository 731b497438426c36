"""Representation finetuning for any transformers model: edits of a few hidden states, and nothing else trained.

```python
from tokay.reft import ReftConfig, ReftModel, get_reft_model

model = get_reft_model(base, ReftConfig(rank=4, positions="f7+l7"))   # base: AutoModel…, frozen
…                                                                     # any training loop
model.save_pretrained("red")                                          # some kilobytes
model = ReftModel.from_pretrained(base, "red")
```

LoReFT, DiReFT and the ablations of Wu et al. 2024 (arXiv 2404.03592); docs/reft.md has formulas, positions, and what
users of pyreft and peft write here.
"""

from tokay.models.reft import (
    ConsReFT,
    DiReFT,
    Intervention,
    LobiReFT,
    LoReFT,
    NoReFT,
    OrthogonalDiReFT,
)
from tokay.models.reft_config import ReftConfig
from tokay.models.reft_merge import Affine, affine_of, save_merged
from tokay.models.reft_model import ReftModel, get_reft_model

__all__ = [
    "Affine",
    "ConsReFT",
    "DiReFT",
    "Intervention",
    "LoReFT",
    "LobiReFT",
    "NoReFT",
    "OrthogonalDiReFT",
    "ReftConfig",
    "ReftModel",
    "affine_of",
    "get_reft_model",
    "save_merged",
]
