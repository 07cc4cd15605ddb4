#!/usr/bin/env python3
"""Causal softmax attention alone in PyTorch, to set beside attention_bench cuda: torch_attention.py

bf16; medians of rounds of calls that follow each other; FLOP of visible pairs, 4 Dh forward and 10 Dh backward for each
(query, key) pair and head. Backends of scaled_dot_product_attention: cuDNN and FlashAttention-2.
"""
import statistics
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

SHAPES = ((64, 1024, 12, 64), (16, 2048, 16, 64), (16, 2048, 16, 128), (4, 8192, 16, 128))
BACKENDS = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "FlashAttention-2": SDPBackend.FLASH_ATTENTION}


def median_seconds(call, calls=10):
    seconds = []
    for round_ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
        if round_ >= 1:
            seconds.append((time.perf_counter() - start) / calls)
    return statistics.median(seconds)


def main():
    print(f"PyTorch {torch.__version__}, {torch.cuda.get_device_name()}, bf16")
    for batch, length, heads, width in SHAPES:
        # [B,T,H,Dh] in memory, as our kernels have it
        q, k, v = (torch.randn(batch, length, heads, width, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
                   .requires_grad_() for _ in range(3))
        flop = batch * heads * width * length * (length + 1) / 2
        for name, backend in BACKENDS.items():
            with sdpa_kernel(backend):
                output = scaled_dot_product_attention(q, k, v, is_causal=True)
                gradient = torch.randn_like(output)
                forward = median_seconds(lambda: scaled_dot_product_attention(q, k, v, is_causal=True))
                backward = median_seconds(lambda: torch.autograd.grad(output, (q, k, v), gradient, retain_graph=True))
            for direction, seconds, work in (("forward", forward, 4 * flop), ("backward", backward, 10 * flop)):
                print(f"{batch} x {length} x {heads} x {width:<5} {name:<17} {direction:<8} {1e3 * seconds:8.3f} ms "
                      f"{1e-9 * work / seconds:10.1f} GFLOP/s", flush=True)


if __name__ == "__main__":
    main()
