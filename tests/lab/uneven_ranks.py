"""Two gloo ranks whose batches touch different tensors; prints as JSON what each tensor's gradient became.

`shared_part` is used on rank 0 only, `forgotten` on neither; rank 1 also lacks rows, so that one of its micro-batches
is an ignored dummy.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from cut import micro_batches
from gradient_equality import _free_port, make_corpus, make_model, ours

from tunestudy.models.attention import switch_to_segment_attention
from tunestudy.train.engines import open_engine
from tunestudy.train.loss import LossModel
from tunestudy.train.trainable import Trainable, UntrainedError, require_gradients
from tunestudy.train.world import World, open_world


def steps(world: World) -> list[dict[str, Any]]:
    """Two optimiser steps' gradients."""
    corpus, model = make_corpus(), make_model()
    assert switch_to_segment_attention(model) is None
    model.forgotten = torch.nn.Parameter(torch.ones(2))
    model.shared_part = torch.nn.Parameter(torch.ones(1))
    if world.rank == 0:
        model.get_input_embeddings().register_forward_hook(lambda _m, _i, embedded: embedded * model.shared_part)
    engine = open_engine(LossModel(model), world)
    trainables = [
        Trainable(name=name, parameter=parameter, role="r", learning_rate=0.1, decays=True)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    found = []
    for _ in range(2):
        model.zero_grad(set_to_none=True)
        rows = [(0,), (1,), (2,)]
        ours(
            engine,
            micro_batches(corpus, rows, rank=world.rank, world_size=2, micro_batch=1, layout="free"),
            world,
        )
        message = ""
        try:
            require_gradients(trainables, world, engine.has_gradient)
        except UntrainedError as error:
            message = str(error)
        grads = {name: getattr(model, name).grad for name in ("forgotten", "shared_part")}
        found.append({"message": message, **{k: None if g is None else g.tolist() for k, g in grads.items()}})
    return found


def _rank(rank: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with open_world() as world:
        gathered = world.gather_objects(steps(world))
        if rank == 0:
            print(json.dumps(gathered), flush=True)


if __name__ == "__main__":
    mp.start_processes(_rank, args=(_free_port(),), nprocs=2, start_method="fork")  # the imports are done
