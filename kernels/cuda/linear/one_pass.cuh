// The kernel of a sweep (see sweep.h). A block of one warpgroup walks the chunks of a head's segment: x, y
// and z arrive in a ring of stages by the copy engine, the state lives in fp32 registers, and its bf16 copy
// in shared memory is an operand of the next chunk, of which there are two, so that a chunk takes one
// barrier:
//
//   while          x S and S += y^T z are under way   the sums <x, y>, asked for a chunk before, are weighted
//   while          P z is under way                   S is rounded for the next chunk, the next y decayed
//   while          the next <x, y> is under way       the output leaves
//
// A block has its multiprocessor for itself: registers for the weights of all pairs are worth more than a
// second block. One more warp asks for the copies. Where pairs have a bias, two warpgroups of a block share x
// and y, and each has columns of z of its own.
#pragma once

#include "kernels/cuda/linear/state.cuh"
#include "kernels/cuda/tile/mbarrier.cuh"
#include "kernels/cuda/tile/tma.cuh"

namespace headway::cuda::linear {

/// Sizes, and places in shared memory, for up to kChannels channels of x and y.
template <int kChannels_, Extra kExtra>
struct OnePass {
  static constexpr bool kNormalised = kExtra == Extra::normaliser, kDivided = kExtra == Extra::divisor,
                        kBiased = kExtra == Extra::bias;
  static constexpr int kChannels = kChannels_, kColumns = columns_of_warpgroup(kChannels),
                       kWarpgroups = warpgroups_of_block(kExtra),
                       kStages = kChannels == 256 || (kChannels == 128 && kBiased) ? 2 : 4;
  static constexpr bool kIsTight =  // in registers
      kChannels == 256 || (kChannels == 128 && kExtra != Extra::none);
  using PairDecay = std::conditional_t<kIsTight, PairDecayInMemory, PairDecayInRegisters>;
  using BlockState = State<kChannels / 64, kColumns, kExtra>;

  static constexpr int kPanels = kChannels / 64, kPanelBytes = kChunk * 128,
                       kOperandBytes = kPanels * kPanelBytes;
  static constexpr int kStageBytes = 2 * kOperandBytes + kWarpgroups * kPanelBytes;  // x, y, z
  static constexpr int kOutputBytes = kChunk * kColumns * 2;
  static constexpr int kStates = kStages * kStageBytes,  // two of each warpgroup, as what follows
      kOutputs = kStates + kWarpgroups * 2 * kOperandBytes,
                       kTokenDecays = kOutputs + kWarpgroups * 2 * kOutputBytes,
                       kPairDecays = kTokenDecays + 2 * TokenDecay::kBytes,
                       kOnes = kPairDecays + PairDecay::kBytes,
                       kKeySums = kOnes + (kNormalised ? Ones::kBytes : 0),
                       kKeySumBytes = decltype(BlockState::keys)::kOperandBytes,
                       kBiases = kKeySums + 2 * kKeySumBytes, kBiasBytes = kBiased ? BiasSum::kBytes : 0,
                       kBiasFactors = kBiases + kStages * kBiasBytes,
                       kBiasFactorBytes = kBiased ? BiasFactors::kBytes : 0,
                       kBiasSums = kBiasFactors + kWarpgroups * 2 * kBiasFactorBytes,
                       kBarriers = kBiasSums + kWarpgroups * 2 * kBiasBytes,
                       kBytes = kBarriers + kStages * 16;
  /// Two warpgroups take registers of a third, of which one thread asks for the copies.
  static constexpr int kThreads = kWarpgroups == 1 ? kWarpgroup + kWarp : 3 * kWarpgroup;
};

/// The copies of a block's operands into its ring, and the barriers they are waited for by.
template <class G>
struct Ring {
  unsigned base;

  __device__ unsigned stage(int s) const { return base + static_cast<unsigned>(s * G::kStageBytes); }
  __device__ unsigned full(int s) const { return base + static_cast<unsigned>(G::kBarriers + s * 16); }
  __device__ unsigned empty(int s) const { return full(s) + 8; }
  __device__ unsigned biases(int s) const {
    return base + static_cast<unsigned>(G::kBiases + s * G::kBiasBytes);
  }

  __device__ void load(const SweepArgs& a, const Work& w, int step, int s) const {
    const MappedSweep& sweep = a.sweep[w.sweep];
    const int token = w.token(a, step);
    mbarrier_expect(full(s), G::kStageBytes + G::kBiasBytes);
#pragma unroll
    for (int p = 0; p < G::kPanels; ++p) {
      const unsigned to = stage(s) + static_cast<unsigned>(p * G::kPanelBytes);
      tma_load(to + G::kOperandBytes, sweep.y, full(s), p * 64, w.head_of_batch, token, w.batch);
      tma_load(to, sweep.x, full(s), p * 64, w.head_of_batch, token, w.batch);
    }
#pragma unroll
    for (int g = 0; g < G::kWarpgroups; ++g)
      tma_load(stage(s) + static_cast<unsigned>(2 * G::kOperandBytes + g * G::kPanelBytes), sweep.z, full(s),
               (w.column_block * G::kWarpgroups + g) * G::kColumns / 64 * 64, w.head_of_batch, token,
               w.batch);
    if constexpr (G::kBiased) bulk_load(biases(s), w.biases(a, step), G::kBiasBytes, full(s));
  }
};

#ifdef HEADWAY_WGMMA

/// mbarrier_wait() while products are under way: ptxas does all products of the kernel one by one (C7514)
/// unless the wait has another end, so that after minutes it ends the kernel with an error.
__device__ inline void wait_beside_products(unsigned barrier, unsigned parity) {
  constexpr long long kMostClocks = 1ll << 40;
  if (mbarrier_try_wait(barrier, parity)) return;
  const long long start = clock64();
  while (!mbarrier_try_wait(barrier, parity))
    if (clock64() - start > kMostClocks) {
      asm volatile("trap;");
      __builtin_unreachable();
    }
}

/// By a warpgroup that computes, with columns of its own of the block's.
template <class G>
__device__ void walk_chunks(const SweepArgs& a, const Work& block, const Ring<G>& ring, float log_decay) {
  constexpr int kPanels = G::kPanels, kColumns = G::kColumns, kValues = kColumns / 2;
  constexpr uint64_t kPanel = G::kPanelBytes / 16;  // in a descriptor
  const MappedSweep& sweep = a.sweep[block.sweep];
  const int thread = static_cast<int>(threadIdx.x % kWarpgroup), warp = uniform(thread / kWarp),
            lane = thread % kWarp;
  const int group =
      G::kWarpgroups == 1 ? 0 : uniform(static_cast<int>(threadIdx.x) / kWarpgroup);  // of the block's
  Work w = block;
  w.column_block = block.column_block * G::kWarpgroups + group;
  // The chunk that may be short is the sequence's last.
  const int rest = a.T - (a.chunks() - 1) * kChunk,
            short_step = sweep.from_end ? (w.segment == 0 ? 0 : -1) : a.chunks() - 1 - w.first_step;
  const float decay_of_chunk = power_of_2(log_decay * kChunk),
              decay_of_rest = power_of_2(log_decay * static_cast<float>(rest));

  typename G::BlockState state;
  state.begin(a, w, log_decay);

  typename G::PairDecay pair_decay;
  pair_decay.begin(ring.base + G::kPairDecays, log_decay, sweep.from_end);
  const int row = warp * 16 + lane / 4;
  float state_decay[2], decay_of_whole[2];
  for (int half = 0; half < 2; ++half) {
    state_decay[half] =
        decay_of_state(log_decay, sweep.from_end, row + half * 8, short_step == 0 ? rest : kChunk);
    decay_of_whole[half] = decay_of_state(log_decay, sweep.from_end, row + half * 8, kChunk);
  }

  // Rows of 128 bytes, pieces of 16 exchanged as products and copies want them.
  const unsigned z_column = static_cast<unsigned>(w.column_block * kColumns % 64 * 2);
  const int matrix_row = lane % 16;
  const unsigned states = ring.base + static_cast<unsigned>(G::kStates + group * 2 * G::kOperandBytes),
                 state_row = states + static_cast<unsigned>((16 * warp + matrix_row) * 128);
  const auto key_sum = [&](int buffer) {
    return ring.base + static_cast<unsigned>(G::kKeySums + buffer * G::kKeySumBytes);
  };
  const auto bias_sum = [&](int buffer) {
    return ring.base + static_cast<unsigned>(G::kBiasSums + (group * 2 + buffer) * G::kBiasBytes);
  };
  const auto bias_factors = [&](int buffer) {
    return BiasFactors{ring.base +
                       static_cast<unsigned>(G::kBiasFactors + (group * 2 + buffer) * G::kBiasFactorBytes)};
  };
  const bool bias_of_y = sweep.bias_of_y;
  /// The state before a chunk as an operand; then it fades over the chunk.
  const auto put_state = [&](int buffer, float decay) {
#pragma unroll
    for (int p = 0; p < kPanels; ++p)
#pragma unroll
      for (int n = 0; n < kColumns / 16; ++n) {
        const float* const s = state.values[p] + 8 * n;
        store_matrices(state_row + static_cast<unsigned>(buffer * G::kOperandBytes + p * G::kPanelBytes) +
                           static_cast<unsigned>(((2 * n + lane / 16) ^ (lane & 7)) << 4),
                       round_pair(s[0], s[1]), round_pair(s[2], s[3]), round_pair(s[4], s[5]),
                       round_pair(s[6], s[7]));
      }
    if constexpr (G::kNormalised) state.keys.put(key_sum(buffer));
    if constexpr (G::kBiased) state.biases.put(bias_sum(buffer));
    state.scale(decay);  // here, not before the product, where ptxas would wait for all products
    state.pin();
  };
  const auto decay_over = [&](int step) {  // of the chunk of this step; behind the last one nothing fades
    return step == w.steps ? 1.0f : step == short_step ? decay_of_rest : decay_of_chunk;
  };
  unsigned out[kColumns / 4];  // the output of a chunk, rounded
  const unsigned outputs = ring.base + static_cast<unsigned>(G::kOutputs + group * 2 * G::kOutputBytes);
  const auto stage_output = [&](unsigned to) {
#pragma unroll
    for (int n = 0; n < kColumns / 16; ++n) {
      const int piece = 2 * n + lane / 16, place = kColumns == 64
                                                       ? matrix_row * 8 + (piece ^ (matrix_row & 7))
                                                       : matrix_row * 4 + (piece ^ (matrix_row / 2 & 3));
      store_matrices(to + static_cast<unsigned>((warp * 16 * (kColumns / 8) + place) * 16), out[4 * n],
                     out[4 * n + 1], out[4 * n + 2], out[4 * n + 3]);
    }
  };
  float pairs[32], o[kValues], of_keys[4];
  unsigned decayed[kPanels][4][4];
  const auto multiply_pairs = [&](unsigned stage) {
    const uint64_t x = wgmma_descriptor(stage, 16), y = wgmma_descriptor(stage + G::kOperandBytes, 16);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kPanels * 4; ++k)
      wgmma(pairs, x + (k / 4) * kPanel + (k % 4) * 2, y + (k / 4) * kPanel + (k % 4) * 2, k > 0);
    wgmma_commit();
  };
  const auto token_decay = [&](int step) {
    return TokenDecay{ring.base + G::kTokenDecays + (step == short_step ? TokenDecay::kBytes : 0)};
  };
  const auto load_left = [&](int step, unsigned stage) {
    load_decayed(decayed, stage + G::kOperandBytes, token_decay(step));
  };

  put_state(0, decay_over(0));
  if constexpr (G::kBiased) {
    for (int buffer = 0; buffer < 2; ++buffer) bias_factors(buffer).clear();
    mbarrier_wait(ring.full(0), 0);
    named_barrier_wait(1 + group, kWarpgroup);
    bias_factors(0).set(token_decay(0), ring.biases(0), bias_of_y);
  }
  fence_async_proxy();
  named_barrier_wait(1 + group, kWarpgroup);
  mbarrier_wait(ring.full(0), 0);
  multiply_pairs(ring.stage(0));
  load_left(0, ring.stage(0));

  int s = 0, step = 0;
  unsigned parity = 0;
  do {
    const unsigned stage = ring.stage(s);
    const uint64_t z = wgmma_descriptor(stage + 2 * G::kOperandBytes +
                                            static_cast<unsigned>(group * G::kPanelBytes) + z_column,
                                        16),
                   x = wgmma_descriptor(stage, 16),
                   before =
                       wgmma_descriptor(states + static_cast<unsigned>((step & 1) * G::kOperandBytes), 16);
#pragma unroll
    for (int p = 0; p < kPanels; ++p)
#pragma unroll
      for (int k = 0; k < 4; ++k) pin_registers(decayed[p][k]);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kPanels * 4; ++k)
      wgmma<Major::depth, Major::other>(o, x + (k / 4) * kPanel + (k % 4) * 2, before + k * 128, k > 0);
    if constexpr (G::kNormalised)
#pragma unroll
      for (int k = 0; k < kPanels * 4; ++k)
        wgmma_eight(of_keys, x + (k / 4) * kPanel + (k % 4) * 2,
                    descriptor_of_eight(key_sum(step & 1)) + k * 16, k > 0);
    wgmma_commit();
    state.add(decayed, z, ring.base + G::kOnes);
    if constexpr (G::kBiased) state.biases.add(z, bias_factors(step & 1));
    wgmma_commit();

    wgmma_wait<2>();
    pin_registers(pairs);
    float gain[2];  // of Z
    if constexpr (G::kBiased) {
      float of_row[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float bias = load_shared_float(ring.biases(s) + static_cast<unsigned>((row + half * 8) * 4));
        of_row[half] = bias_of_y ? 0.0f : bias;
        gain[half] = bias_of_y ? 1.0f : bias;
      }
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        float2 of_column = load_shared_pair(ring.biases(s) + static_cast<unsigned>(n * 32 + lane % 4 * 8));
        if (!bias_of_y) of_column = make_float2(0, 0);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          pairs[4 * n + 2 * half] += of_row[half] + of_column.x;
          pairs[4 * n + 2 * half + 1] += of_row[half] + of_column.y;
        }
      }
      pin_registers(pairs);
      pin_registers(gain);
    }
    unsigned weights[4][4];
    pair_decay.weigh(weights, pairs);
    float factor[2] = {1, 1};
    if constexpr (G::kNormalised) {
      pin_registers(pairs);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < 16; ++i) sum += pairs[i / 2 * 4 + half * 2 + i % 2];
        factor[half] = quad_sum(sum);
      }
      pin_registers(factor);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) pin_registers(weights[k]);
    wgmma_wait<1>();
    pin_registers(o);
    if constexpr (G::kBiased) {
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
        const float2 sum =
            load_shared_pair(bias_sum(step & 1) + static_cast<unsigned>(n * 32 + lane % 4 * 8));
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          o[4 * n + 2 * half] += gain[half] * sum.x;
          o[4 * n + 2 * half + 1] += gain[half] * sum.y;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kValues; ++i) o[i] *= state_decay[i / 2 % 2];
    if constexpr (G::kNormalised) {
      pin_registers(of_keys);
#pragma unroll
      for (int half = 0; half < 2; ++half)
        factor[half] += state_decay[half] * (of_keys[2 * half] + of_keys[2 * half + 1]);
      pin_registers(factor);
    }
    pin_registers(o);
#pragma unroll
    for (int k = 0; k < 4; ++k) pin_registers(weights[k]);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) wgmma(o, weights[k], z + k * 128, true);
    wgmma_commit();

    if constexpr (G::kNormalised)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int token = w.token(a, step) + row + half * 8;
        if (token >= a.T) continue;  // rows that nobody keeps
        const int64_t index = (static_cast<int64_t>(w.batch) * a.T + token) * a.H + w.head_of_batch;
        const float denominator = factor[half] + (sweep.token_eps ? sweep.token_eps[index] : sweep.eps);
        if (w.column_block == 0 && lane % 4 == 0) sweep.denominator[index] = denominator;
        factor[half] = 1 / denominator;
      }
    if constexpr (G::kDivided)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        if (const int token = w.token(a, step) + row + half * 8; token < a.T)
          factor[half] =
              1 / sweep.divisor[(static_cast<int64_t>(w.batch) * a.T + token) * a.H + w.head_of_batch];
    // The next chunk's pairs; behind the last chunk this one's again, which nobody uses: a product under a
    // condition would make ptxas do all of them one by one.
    int next = s + 1;
    unsigned next_parity = parity;
    if (next == G::kStages) next = 0, next_parity ^= 1;
    if (step + 1 == w.steps) next = s, next_parity = parity;
    wait_beside_products(ring.full(next), next_parity);
    multiply_pairs(ring.stage(next));
    wgmma_wait<2>();
    state.pin();
    put_state((step + 1) & 1, decay_over(step + 1));
    load_left(step + 1, ring.stage(next));
    if constexpr (G::kBiased)
      bias_factors((step + 1) & 1).set(token_decay(step + 1), ring.biases(next), bias_of_y);
    wgmma_wait<1>();
    pin_registers(o);
    if (lane == 0) mbarrier_arrive(ring.empty(s));
#pragma unroll
    for (int i = 0; i < kValues / 2; ++i)
      out[i] = round_pair(o[2 * i] * factor[i % 2], o[2 * i + 1] * factor[i % 2]);
    const unsigned output = outputs + static_cast<unsigned>((step & 1) * G::kOutputBytes);
    stage_output(output);
    fence_async_proxy();
    if (thread == kWarp) bulk_wait_read<0>();  // the store before has left the buffer that is next
    __syncwarp();
    named_barrier_wait(1 + group, kWarpgroup);
    if (thread == kWarp) {
      tma_store(sweep.to, output, w.column_block * kColumns, w.head_of_batch, w.token(a, step), w.batch);
      bulk_commit();
    }
    __syncwarp();
    if constexpr (!G::kNormalised)  // which goes from the start, where both are the same
      state_decay[0] = decay_of_whole[0], state_decay[1] = decay_of_whole[1];
    s = next, parity = next_parity;
  } while (++step < w.steps);
  wgmma_wait<0>();
  pin_registers(pairs);
  state.pin();
  if (sweep.after && w.segment == a.segments - 1) {
    state.each(sweep, w, [&](float& value, int64_t index) { sweep.after[index] = value; });
    if (w.column_block == 0 && lane % 4 == 0)
      state.each_key(sweep, w, [&](const float* twice, int64_t index) { sweep.after[index] = twice[0]; });
    state.each_bias(sweep, w, [&](float high, float low, int64_t index) { sweep.after[index] = high + low; });
  }
  if (thread == kWarp) bulk_wait<0>();
}

#endif

template <class G>
__global__ void __launch_bounds__(G::kThreads, 1) one_pass_kernel(const __grid_constant__ SweepArgs a) {
#ifdef HEADWAY_WGMMA
  extern __shared__ __align__(1024) uint4 memory[];
  const Ring<G> ring{shared_address(memory)};
  const Work w(a, a.segments, G::kWarpgroups);
  const MappedSweep& sweep = a.sweep[w.sweep];
  constexpr int kComputing = G::kWarpgroups * kWarpgroup;
  if (threadIdx.x == kComputing) {  // copies come first: all else is done while they are under way
    prefetch_tensor_map(sweep.y);
    prefetch_tensor_map(sweep.x);
    prefetch_tensor_map(sweep.z);
    for (int s = 0; s < G::kStages; ++s) {
      mbarrier_init(ring.full(s), 1);
      mbarrier_init(ring.empty(s), kComputing / kWarp);
    }
    fence_mbarrier_init();
    for (int step = 0; step < min(G::kStages, w.steps); ++step) ring.load(a, w, step, step);
    prefetch_tensor_map(sweep.to);
  }
  __syncwarp();
  const float log_decay = log_decay_of_head(a.slope, w.head_of_batch);
  const TokenDecay decay{ring.base + G::kTokenDecays}, decay_of_short{decay.address + TokenDecay::kBytes};
  decay.fill(log_decay, sweep.from_end, kChunk);
  decay_of_short.fill(log_decay, sweep.from_end, a.T - (a.chunks() - 1) * kChunk);
  G::PairDecay::fill(ring.base + G::kPairDecays, log_decay, sweep.from_end);
  if constexpr (G::kNormalised) {
    Ones::fill(ring.base + G::kOnes);
    fence_async_proxy();
  }
  __syncthreads();

  if (uniform(static_cast<int>(threadIdx.x) / kWarp) < kComputing / kWarp) {
    if constexpr (G::kWarpgroups > 1) warpgroup_reg_alloc<240>();
    walk_chunks<G>(a, w, ring, log_decay);
  } else {
    if constexpr (G::kWarpgroups > 1) warpgroup_reg_dealloc<24>();
    if (threadIdx.x != kComputing) return;
    int s = 0;
    unsigned parity = 0;
    for (int step = G::kStages; step < w.steps; ++step) {
      mbarrier_wait(ring.empty(s), parity);
      ring.load(a, w, step, s);
      if (++s == G::kStages) s = 0, parity ^= 1;
    }
  }
#endif
}

}  // namespace headway::cuda::linear
