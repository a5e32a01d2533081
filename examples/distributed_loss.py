"""Two processes train one small CLIP: each has half of the batch, and both see all of it as negatives.

``python examples/distributed_loss.py`` starts two processes itself, and
``torchrun --nproc-per-node 4 examples/distributed_loss.py`` as many as you like.
"""

from __future__ import annotations

import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import clipfast

PAIRS = 64  # in all processes together


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)  # the same weights everywhere
        self.image, self.text = nn.Linear(32, 16), nn.Linear(24, 16)
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.image(images), self.text(texts), self.log_scale.exp()


def batch() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.randn(PAIRS, 32, generator=random), torch.randn(PAIRS, 24, generator=random)


def train() -> None:
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    images, texts = (x.tensor_split(ranks)[rank].to(device) for x in batch())
    towers = Towers().to(device)
    model = DistributedDataParallel(towers)

    loss = clipfast.clip_loss(*model(images, texts), normalize=True, group=dist.group.WORLD)
    loss.backward()  # DDP averages the gradients of the weights

    if rank == 0:
        alone = Towers().to(device)
        whole = clipfast.clip_loss(*alone(*(x.to(device) for x in batch())), normalize=True)
        whole.backward()
        print(f"loss on {ranks} processes {loss.item():.6f}, on one {whole.item():.6f}")
        for (name, here), there in zip(towers.named_parameters(), alone.parameters(), strict=True):
            difference = (here.grad - there.grad).norm() / there.grad.norm()
            print(f"gradient of {name}: relative difference {difference:.1e}")
            assert difference < 1e-5
    dist.destroy_process_group()


def one_of_two(rank: int, port: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    train()


if __name__ == "__main__":
    if "RANK" in os.environ:  # started by torchrun
        train()
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torch.multiprocessing.spawn(one_of_two, (port,), nprocs=2)
