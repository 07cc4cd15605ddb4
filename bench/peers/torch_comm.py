#!/usr/bin/env python3
"""Bus bandwidth of NCCL's collectives alone, through PyTorch, to set beside comm_bench: mpirun -np 2 torch_comm.py

fp32 tensors; GB/s of the bytes that must cross each rank's link, medians of runs timed by events on rank 0.
"""
import os
import statistics

import torch
import torch.distributed as dist


def median_seconds(exchange):
    seconds = []
    for run in range(9):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        dist.barrier()
        begin.record()
        exchange()
        end.record()
        torch.cuda.synchronize()
        if run >= 2:
            seconds.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(seconds)


def main():
    rank, ranks = int(os.environ["OMPI_COMM_WORLD_RANK"]), int(os.environ["OMPI_COMM_WORLD_SIZE"])
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", init_method="tcp://127.0.0.1:29511", rank=rank, world_size=ranks,
                            device_id=torch.device("cuda", rank))
    if rank == 0:
        print(f"PyTorch {torch.__version__}, NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}, {ranks} ranks, fp32")
    for mib in (64, 256, 1024):
        whole = torch.zeros(mib * 2**18, device="cuda")
        part = whole[rank * whole.numel() // ranks:(rank + 1) * whole.numel() // ranks]
        bytes_crossing = (ranks - 1) / ranks * mib * 2**20
        all_reduce = median_seconds(lambda: dist.all_reduce(whole))
        scatter = median_seconds(lambda: dist.reduce_scatter_tensor(part, whole))
        gather = median_seconds(lambda: dist.all_gather_into_tensor(whole, part))
        if rank == 0:
            print(f"{mib:>9} MiB: all_reduce {2 * bytes_crossing / all_reduce / 1e9:.1f} GB/s, reduce_scatter "
                  f"{bytes_crossing / scatter / 1e9:.1f}, all_gather {bytes_crossing / gather / 1e9:.1f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
