"""What became of the base's general ability."""

from __future__ import annotations

from tokay.evaluate.general import check_general, is_local, local_path, unreachable
from tokay.pipeline.context import Context
from tokay.store import StageOutput, fingerprint

CODE = ("tokay.evaluate", "tokay.search.dense", "tokay.models")


def general(ctx: Context) -> None:
    """Base and tuned on texts of other kinds; where no set is at hand that is said, and nothing waits for it."""
    settings = ctx.settings.guard
    before = ctx.run.read_json("general", "general") if ctx.run.is_done("general") else {}
    away = [spec for spec in settings.sets if not is_local(spec)]
    missing = unreachable() if away and not before.get("checked") else ""

    def work(out: StageOutput) -> None:
        ctx.progress.start("general ability", None)
        tuned = ctx.tuned()
        out.write_json("general", check_general(ctx.base(), tuned, settings, missing=missing))

    key = {
        **settings.model_dump(mode="json"),
        "files": [fingerprint(local_path(spec)) for spec in settings.sets if is_local(spec)],
        "missing": bool(missing),
        "base": ctx.base_print,
    }
    ctx.stage("general", work, settings=key, reads=("vectors", "train"), code=CODE)
