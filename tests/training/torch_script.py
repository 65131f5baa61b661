"""One of two torch processes that try to train together; `test_refusals.py` starts it."""

import sys

import torch.distributed
import training_toys

rank, port = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group(
    "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
)
try:
    training_toys.trainer()
except ValueError as error:
    print(error)
torch.distributed.destroy_process_group()
