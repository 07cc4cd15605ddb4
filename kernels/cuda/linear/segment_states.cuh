// What each segment of a sequence but the last adds to a sweep's state: the first of two kernels where heads
// are few. y and z alone are read, by blocks that refill their own stages.
#pragma once

#include "kernels/cuda/linear/state.cuh"
#include "kernels/cuda/tile/mbarrier.cuh"
#include "kernels/cuda/tile/tma.cuh"

namespace headway::cuda::linear {

template <int kChannels_, Extra kExtra>
struct SegmentStates {
  static constexpr int kChannels = kChannels_, kColumns = columns_of_warpgroup(kChannels), kStages = 4,
                       kBlocks = kChannels == 64    ? 3
                                 : kChannels == 128 ? 2
                                                    : 1;
  static constexpr bool kNormalised = kExtra == Extra::normaliser, kBiased = kExtra == Extra::bias;
  using BlockState = State<kChannels / 64, kColumns, kExtra>;
  static constexpr int kPanels = kChannels / 64, kPanelBytes = kChunk * 128,
                       kOperandBytes = kPanels * kPanelBytes, kStageBytes = kOperandBytes + kPanelBytes;
  static constexpr int kTokenDecay = kStages * kStageBytes, kOnes = kTokenDecay + TokenDecay::kBytes,
                       kBiases = kOnes + Ones::kBytes, kBiasBytes = kBiased ? BiasSum::kBytes : 0,
                       kBiasFactors = kBiases + kStages * kBiasBytes,
                       kBiasFactorBytes = kBiased ? BiasFactors::kBytes : 0,
                       kBarriers = kBiasFactors + 2 * kBiasFactorBytes, kBytes = kBarriers + kStages * 16;
};

template <class G>
__global__ void __launch_bounds__(kWarpgroup, G::kBlocks)
    segment_states_kernel(const __grid_constant__ SweepArgs a) {
#ifdef HEADWAY_WGMMA
  extern __shared__ __align__(1024) uint4 memory[];
  const unsigned base = shared_address(memory);
  const Work w(a, a.segments - 1);
  const MappedSweep& sweep = a.sweep[w.sweep];
  const float log_decay = log_decay_of_head(a.slope, w.head_of_batch);
  const bool first_lane = threadIdx.x % kWarp == 0;
  const auto stage = [&](int s) { return base + static_cast<unsigned>(s * G::kStageBytes); };
  const auto full = [&](int s) { return base + static_cast<unsigned>(G::kBarriers + s * 16); };
  const auto empty = [&](int s) { return full(s) + 8; };
  const auto biases = [&](int s) { return base + static_cast<unsigned>(G::kBiases + s * G::kBiasBytes); };
  const auto bias_factors = [&](int buffer) {
    return BiasFactors{base + static_cast<unsigned>(G::kBiasFactors + buffer * G::kBiasFactorBytes)};
  };
  const auto load = [&](int step, int s) {
    const int token = w.token(a, step);
    mbarrier_expect(full(s), G::kStageBytes + G::kBiasBytes);
#pragma unroll
    for (int p = 0; p < G::kPanels; ++p)
      tma_load(stage(s) + static_cast<unsigned>(p * G::kPanelBytes), sweep.y, full(s), p * 64,
               w.head_of_batch, token, w.batch);
    tma_load(stage(s) + G::kOperandBytes, sweep.z, full(s), w.column_block * G::kColumns / 64 * 64,
             w.head_of_batch, token, w.batch);
    if constexpr (G::kBiased) bulk_load(biases(s), w.biases(a, step), G::kBiasBytes, full(s));
  };
  if (threadIdx.x == 0) {
    for (int s = 0; s < G::kStages; ++s) {
      mbarrier_init(full(s), 1);
      mbarrier_init(empty(s), kWarpgroup / kWarp);
    }
    fence_mbarrier_init();
  }
  const TokenDecay decay{base + G::kTokenDecay};
  decay.fill(log_decay, sweep.from_end, kChunk);
  if constexpr (G::kNormalised) {
    Ones::fill(base + G::kOnes);
    fence_async_proxy();
  }
  if constexpr (G::kBiased)
    for (int buffer = 0; buffer < 2; ++buffer) bias_factors(buffer).clear();
  __syncthreads();
  if (threadIdx.x == 0)
    for (int step = 0; step < min(G::kStages, w.steps); ++step) load(step, step);
  __syncwarp();

  const float decay_of_chunk = power_of_2(log_decay * kChunk);
  const unsigned z_column = static_cast<unsigned>(w.column_block * G::kColumns % 64 * 2);
  typename G::BlockState state;
  state.clear();
  int s = 0;
  unsigned parity = 0;
  for (int step = 0; step < w.steps; ++step) {
    unsigned decayed[G::kPanels][4][4];
    mbarrier_wait(full(s), parity);
    if constexpr (G::kBiased) {
      bias_factors(step & 1).set(decay, biases(s), sweep.bias_of_y);
      fence_async_proxy();
      __syncthreads();
    }
    load_decayed(decayed, stage(s), decay);
    state.scale(decay_of_chunk);
    state.pin();
#pragma unroll
    for (int p = 0; p < G::kPanels; ++p)
#pragma unroll
      for (int k = 0; k < 4; ++k) pin_registers(decayed[p][k]);
    wgmma_fence();
    const uint64_t z = wgmma_descriptor(stage(s) + G::kOperandBytes + z_column, 16);
    state.add(decayed, z, base + G::kOnes);
    if constexpr (G::kBiased) state.biases.add(z, bias_factors(step & 1));
    wgmma_commit();
    wgmma_wait<0>();
    state.pin();
    if (first_lane) mbarrier_arrive(empty(s));
    if (threadIdx.x == 0 && step + G::kStages < w.steps) {
      mbarrier_wait(empty(s), parity);
      load(step + G::kStages, s);
    }
    __syncwarp();
    if (++s == G::kStages) s = 0, parity ^= 1;
  }
  state.leave(a, w);
#endif
}

}  // namespace headway::cuda::linear
