"""What stands between pooling and the end of an embedder: sentence-transformers' Dense and Normalize modules, in torch.

Letters: N vectors, D width of the backbone, W width of the embedder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tokay.errors import TokayError, first_line
from tokay.models.dense import BIAS, WEIGHT, WEIGHTS, Dense, Step, write_matrix
from tokay.models.folder import dense_folders


class Head(nn.Module):
    """The modules in their order; none of them is none at all.

    A Normalize that is the last of the folder is not here: it is ``EmbedderConfig.normalize``.

    Args:
        steps: the modules.
    """

    def __init__(self, steps: Sequence[Step] = ()) -> None:
        super().__init__()
        self.steps = tuple(steps)
        maps = [step for step in self.steps if isinstance(step, Dense)]
        self.maps = nn.ModuleList(nn.Linear(each.inner, each.width, bias=each.bias) for each in maps)

    @classmethod
    def load(cls, folder: Path, steps: Sequence[Step], *, width: int) -> Head:
        """The modules of a model folder.

        Args:
            folder: of a model.
            steps: as ``read_config`` has them.
            width: D.

        Raises:
            TokayError: a map's weights cannot be read, or do not fit what comes in.
        """
        head = cls(steps)
        for linear, place in zip(head.maps, dense_folders(folder), strict=True):
            assert isinstance(linear, nn.Linear)
            if linear.in_features != width:
                raise TokayError(f"{place} maps vectors of {linear.in_features} numbers and is given {width}; mend it")
            _fill(linear, place)
            width = linear.out_features
        return head

    def save(self, folder: Path) -> None:
        """Write the maps into the folders that ``modules.json`` there names."""
        maps = [step for step in self.steps if isinstance(step, Dense)]
        for step, linear, place in zip(maps, self.maps, dense_folders(folder), strict=True):
            tensors = {name: value.float().cpu().numpy() for name, value in linear.state_dict().items()}
            write_matrix(place, tensors["weight"], tensors.get("bias"), activation=step.activation)

    @property
    def width(self) -> int | None:
        """W, where there is a map; else D is."""
        return int(self.maps[-1].out_features) if len(self.maps) else None  # type: ignore[arg-type]

    def behind(self, first: nn.Linear) -> Head:
        """The same with one more map before all others, without activation."""
        more = Dense(first.in_features, first.out_features, first.bias is not None, "Identity")
        head = Head((more, *self.steps))
        head.maps = nn.ModuleList([first, *self.maps])
        return head

    def forward(self, vectors: Tensor) -> Tensor:
        """Pooled vectors (N, D) to the model's, (N, W)."""
        maps: Iterable[nn.Module] = iter(self.maps)
        for step in self.steps:
            if isinstance(step, Dense):
                vectors = getattr(nn, step.activation)()(next(maps)(vectors))  # type: ignore[call-overload]
            else:
                vectors = nn.functional.normalize(vectors, dim=-1)
        return vectors


@torch.no_grad()
def _fill(linear: nn.Linear, folder: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    if not path.is_file() and (folder / "pytorch_model.bin").is_file():
        raise TokayError(
            f"{folder} has its weights as a pickle, which Tokay does not open; load the model by sentence-transformers "
            "and save it again, which writes safetensors"
        )
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TokayError(f"{path} cannot be read: {first_line(error)}; fetch or save the model again") from error
    wanted = {WEIGHT: linear.weight} | ({BIAS: linear.bias} if linear.bias is not None else {})
    if {name: tuple(value.shape) for name, value in tensors.items()} != {n: tuple(v.shape) for n, v in wanted.items()}:
        raise TokayError(f"{path} does not fit the config.json beside it; fetch or save the model again")
    for name, value in wanted.items():
        value.copy_(tensors[name])
