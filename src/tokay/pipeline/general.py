"""What became of the base's general ability."""

from __future__ import annotations

from tokay.evaluate.general import check_general, is_local, local_path, unreachable
from tokay.pipeline.context import Context
from tokay.store import StageOutput, fingerprint

CODE = ("tokay.evaluate", "tokay.search.dense", "tokay.models")


def general(ctx: Context) -> None:
    """Base, tuned and refitted on texts of other kinds; where no set is at hand that is said, without a wait."""
    settings = ctx.settings.guard
    before = ctx.run.read_json("general", "general") if ctx.run.is_done("general") else {}
    away = [spec for spec in settings.sets if not is_local(spec)]
    missing = unreachable() if away and not before.get("checked") else ""
    made_by = {"train": "tuned", **({"refit": "refitted"} if ctx.run.is_done("refit") else {})}

    def work(out: StageOutput) -> None:
        from tokay.models.torch_embedder import TorchEmbedder

        ctx.progress.start("general ability", None)
        trained = {name: TorchEmbedder.load(ctx.run.path / made / "model") for made, name in made_by.items()}
        out.write_json("general", check_general(ctx.base(), trained, settings, missing=missing))

    key = {
        **settings.model_dump(mode="json"),
        "files": [fingerprint(local_path(spec)) for spec in settings.sets if is_local(spec)],
        "missing": bool(missing),
        "base": ctx.base_print,
    }
    ctx.stage("general", work, settings=key, reads=("vectors", *made_by), code=CODE)
