#!/usr/bin/env python3
"""Causal softmax attention alone in PyTorch, to set beside attention_bench cuda: torch_attention.py [forward | backward]

bf16; medians of rounds of calls that follow each other; FLOP of visible pairs, 4 Dh forward and 10 Dh backward for each
(query, key) pair and head. Backends of scaled_dot_product_attention: cuDNN and FlashAttention-2; the names of the
kernels that ran show that the backend was taken. K: key heads, where they are fewer.
"""
import statistics
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

# B, T, H, K, Dh
SHAPES = ((64, 1024, 12, 12, 64), (16, 2048, 16, 16, 64), (4, 8192, 32, 32, 64), (16, 2048, 16, 16, 128),
          (4, 8192, 16, 16, 128), (4, 8192, 16, 4, 128), (4, 8192, 8, 2, 128), (32, 1024, 12, 4, 64),
          (64, 1000, 12, 12, 64), (2, 12345, 12, 12, 64), (2, 12345, 12, 12, 128), (32, 1024, 12, 12, 128),
          (1, 65536, 1, 1, 64), (1, 65536, 1, 1, 128), (1, 131072, 1, 1, 128), (16, 2048, 16, 16, 96))
BACKENDS = {"cuDNN": (SDPBackend.CUDNN_ATTENTION, "cudnn"), "FlashAttention-2": (SDPBackend.FLASH_ATTENTION, "flash")}


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


def kernel_names(call):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    return [event.key for event in profile.key_averages()]


def main():
    directions = sys.argv[1:] or ["forward", "backward"]
    print(f"PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, {torch.cuda.get_device_name()}, bf16")
    for batch, length, heads, kv_heads, width in SHAPES:
        # [B,T,H,Dh] in memory, as our kernels have it
        q, k, v = (torch.randn(batch, length, n, width, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
                   .requires_grad_() for n in (heads, kv_heads, kv_heads))
        flop = batch * heads * width * length * (length + 1) / 2
        shape = f"{batch} x {length} x {heads}{'' if heads == kv_heads else f'/{kv_heads}'} x {width}"

        def attention():
            return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != kv_heads)

        for name, (backend, mark) in BACKENDS.items():
            try:
                with sdpa_kernel(backend):
                    output = attention()
                    if not any(mark in kernel.lower() for kernel in kernel_names(attention)):
                        print(f"{shape:<32} {name:<17} another backend was taken", flush=True)
                        continue
                    gradient = torch.randn_like(output)
                    for direction, work in (("forward", 4 * flop), ("backward", 10 * flop)):
                        if direction not in directions:
                            continue
                        seconds = median_seconds(attention if direction == "forward" else lambda: torch.autograd.grad(
                            output, (q, k, v), gradient, retain_graph=True))
                        print(f"{shape:<32} {name:<17} {direction:<8} {1e3 * seconds:9.4f} ms "
                              f"{1e-12 * work / seconds:7.1f} TFLOP/s", flush=True)
            except RuntimeError as error:
                print(f"{shape:<32} {name:<17} does not take it: {str(error).splitlines()[0]}", flush=True)


if __name__ == "__main__":
    main()
