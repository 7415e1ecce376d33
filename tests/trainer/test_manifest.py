"""What a product's manifest says of how it was made."""

from __future__ import annotations

import torch
from toys import toy_file

from rlhf_api.product import Manifest
from rlhf_api.stages.sft import Sft
from rlhf_trainer.context import Facts, StageContext
from rlhf_trainer.storage.checkpoints import Checkpoints
from rlhf_trainer.telemetry.metrics import Metrics
from rlhf_trainer.telemetry.progress import Progress


def test_it_has_the_defaults_that_the_stage_file_leaves_out(tmp_path):
    file = toy_file(tmp_path, {"model": {"input": "base"}, "data": [{"input": "rows"}]})
    work = tmp_path / "work" / "uid-1" / "toy"
    work.mkdir(parents=True)
    (tmp_path / "products").mkdir()
    context = StageContext(
        file=file,
        rank=0,
        world=1,
        local_rank=0,
        device=torch.device("cpu"),
        work=work,
        metrics=Metrics(work, rank=0),
        progress=Progress(),
        checkpoints=Checkpoints(work / "checkpoints", digest=file.digest, rank=0, world=1),
    )
    spec = context.spec(Sft)
    manifest = Manifest.model_validate_json((context.publish(lambda folder: Facts()) / "manifest.json").read_bytes())
    assert manifest.spec == spec.model_dump(mode="json")
    assert manifest.spec["epochs"] == spec.epochs
