// What the warps of a Hopper block wait for each other with: barriers in shared memory that count arrivals
// and bytes of copies, named barriers, and registers that one role hands to another (PTX ISA 8: mbarrier,
// barrier, setmaxnreg). For sm_90a only.
//
// An mbarrier has phases 0, 1, 2...; waiting for parity p returns once the phase of that parity is complete,
// and at once for parity 1 on a fresh barrier, which is how a producer finds every slot empty at first.
#pragma once

#include "kernels/cuda/mma.cuh"

namespace headway::cuda {

/// count: arrivals that complete a phase, 1 to 2^20 - 1. One thread, followed by fence_mbarrier_init() and a
/// barrier of the block.
__device__ inline void mbarrier_init(unsigned barrier, unsigned count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
/// Shows initialised barriers to copies.
__device__ inline void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ inline void mbarrier_arrive(unsigned barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// Arrives, and lets the phase wait for that many bytes of copies too: said before the copies are asked for.
/// What a tensor copy clips at the end of a tensor counts as if it were there.
__device__ inline void mbarrier_expect(unsigned barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ inline bool mbarrier_try_wait(unsigned barrier, unsigned parity) {
  unsigned is_complete;
  asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
               : "=r"(is_complete)
               : "r"(barrier), "r"(parity)
               : "memory");
  return is_complete != 0;
}
/// With HEADWAY_WATCHDOG, for development, a wait of about a third of a second ends the kernel.
__device__ inline void mbarrier_wait(unsigned barrier, unsigned parity) {
#ifdef HEADWAY_WATCHDOG
  if (mbarrier_try_wait(barrier, parity)) return;
  const unsigned start = static_cast<unsigned>(clock());
  while (!mbarrier_try_wait(barrier, parity))
    if (static_cast<unsigned>(clock()) - start > 1u << 29) {
      asm volatile("trap;");
      __builtin_unreachable();  // else ptxas keeps registers alive across the wait and serialises products
    }
#else
  while (!mbarrier_try_wait(barrier, parity)) {
  }
#endif
}

/// Barrier 1 to 15 of the block, for `threads` of its threads, whole warps, that wait or arrive.
__device__ inline void named_barrier_wait(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
/// The calling warps go on at once.
__device__ inline void named_barrier_arrive(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

/// Registers a thread of the calling warpgroup gives up or gets, multiples of 8 from 24 to 256. All
/// warpgroups together must not ask for more than the kernel was launched with, or they wait for ever; ptxas
/// heeds it only with launch bounds that name a number of blocks.
template <int kRegisters>
__device__ void warpgroup_reg_dealloc() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ void warpgroup_reg_alloc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace headway::cuda
