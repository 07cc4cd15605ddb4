#include "kernels/ops/moh_gates.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/cpu/parallel.h"

namespace headway {
namespace {

/// What one token's logits say.
template <class S>
struct Routing {
  std::vector<S> shared, routed, mix;  // ps, pr, m
  std::vector<S> chosen_share;         // r: softmax over the chosen alone, 0 elsewhere
  std::vector<bool> chosen;

  Routing(const MohConfig& config, const S* z, int64_t num_routed)
      : shared(softmax(z, config.shared_heads)),
        routed(softmax(z + config.shared_heads, num_routed)),
        mix(softmax(z + config.shared_heads + num_routed, config.shared_heads > 0 ? 2 : 0)),
        chosen_share(static_cast<size_t>(num_routed), S(0)),
        chosen(static_cast<size_t>(num_routed), false) {
    const S* const logits = z + config.shared_heads;
    std::vector<int64_t> order(static_cast<size_t>(num_routed));
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + config.top_k, order.end(), [&](int64_t a, int64_t b) {
      return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
    });
    order.resize(static_cast<size_t>(config.top_k));
    std::vector<S> kept;
    for (const int64_t i : order) kept.push_back(logits[i]);
    kept = softmax(kept.data(), config.top_k);
    for (size_t k = 0; k < order.size(); ++k) {
      chosen[static_cast<size_t>(order[k])] = true;
      chosen_share[static_cast<size_t>(order[k])] = kept[k];
    }
  }

  static std::vector<S> softmax(const S* z, int64_t n) {
    std::vector<S> p(z, z + n);
    if (n == 0) return p;
    const S largest = *std::max_element(p.begin(), p.end());
    S sum = 0;
    for (S& x : p) sum += x = std::exp(x - largest);
    for (S& x : p) x /= sum;
    return p;
  }
};

/// Factors of ps and of pr or r in the gates, but for the mixing weights.
template <class S>
struct Factors {
  S shared, routed;
  explicit Factors(const MohConfig& c)
      : shared(c.renormalises ? static_cast<S>(2 * c.shared_heads) : S(1)),
        routed(!c.renormalises ? S(1) : static_cast<S>((c.shared_heads > 0 ? 2 : 1) * c.top_k)) {}
};

template <class T>
void moh_gates_forward(const MohGatesForward<T>& args, Stream&) {
  const int64_t B = args.z.size[0], length = args.z.size[1], N = args.z.size[2];
  const int64_t Hs = args.config.shared_heads, E = args.fractions.size[0], n = B * length;
  const Factors<T> factor(args.config);
  const int64_t num_blocks = num_reduction_blocks(n);
  // Per block of tokens: sums of pr, then how often each head was chosen.
  std::vector<T> partial(static_cast<size_t>(num_blocks * 2 * E), T(0));
#pragma omp parallel for if (args.z.numel() >= kSmallestParallel)
  for (int64_t block = 0; block < num_blocks; ++block) {
    T* const sums = partial.data() + block * 2 * E;
    for (int64_t i = n * block / num_blocks; i < n * (block + 1) / num_blocks; ++i) {
      const Routing<T> routing(args.config, args.z.data + i * N, E);
      const T mix0 = Hs > 0 ? routing.mix[0] : T(0), mix1 = Hs > 0 ? routing.mix[1] : T(1);
      const int64_t b = i / length, t = i % length;
      for (int64_t h = 0; h < Hs; ++h) args.gates(b, h, t) = factor.shared * mix0 * routing.shared[h];
      for (int64_t e = 0; e < E; ++e) {
        const T share = args.config.renormalises ? routing.chosen_share[e] : routing.routed[e];
        args.gates(b, Hs + e, t) = routing.chosen[e] ? factor.routed * mix1 * share : T(0);
        sums[e] += routing.routed[e];
        sums[E + e] += routing.chosen[e] ? T(1) : T(0);
      }
    }
  }
  for (int64_t head = 0; head < B * args.gates.size[1]; ++head) {
    const T* const gates = args.gates.data + head * length;
    int32_t* rows = args.row_index.data + head * length;
    int32_t* const end = rows + length;
    for (int64_t t = 0; t < length; ++t)
      if (gates[t] != 0) *rows++ = static_cast<int32_t>(t);
    std::fill(rows, end, -1);
  }
  std::vector<T> sums(static_cast<size_t>(2 * E));
  add_blocks(partial.data(), num_blocks, View<T, 1>{sums.data(), {2 * E}, {1}}, false);
  T balance = 0;
  for (int64_t e = 0; e < E; ++e) {
    args.fractions(e) = sums[E + e] / static_cast<T>(n);
    balance += sums[e] / static_cast<T>(n) * args.fractions(e);
  }
  args.balance_loss(0) = args.config.renormalises ? static_cast<T>(E) * balance : balance;
}

/// dz_i += p_i (dp_i - sum_j p_j dp_j): through a softmax.
template <class T>
void add_softmax_gradient(const std::vector<T>& p, const std::vector<T>& dp, T* dz) {
  T mean = 0;
  for (size_t i = 0; i < p.size(); ++i) mean += p[i] * dp[i];
  for (size_t i = 0; i < p.size(); ++i) dz[i] += p[i] * (dp[i] - mean);
}

template <class T>
void moh_gates_backward(const MohGatesBackward<T>& args, Stream&) {
  const int64_t B = args.z.size[0], length = args.z.size[1], N = args.z.size[2];
  const int64_t Hs = args.config.shared_heads, E = args.fractions.size[0], n = B * length;
  const Factors<T> factor(args.config);
  const T balance =
      args.dbalance_loss
          ? args.dbalance_loss(0) * (args.config.renormalises ? static_cast<T>(E) : T(1)) / static_cast<T>(n)
          : T(0);
#pragma omp parallel for if (args.z.numel() >= kSmallestParallel)
  for (int64_t i = 0; i < n; ++i) {
    const Routing<T> routing(args.config, args.z.data + i * N, E);
    const T mix0 = Hs > 0 ? routing.mix[0] : T(0), mix1 = Hs > 0 ? routing.mix[1] : T(1);
    T* const dz = args.dz.data + i * N;
    std::fill_n(dz, N, T(0));
    const auto dgate = [&](int64_t h) { return args.dgates ? args.dgates(i / length, h, i % length) : T(0); };
    std::vector<T> dshared(static_cast<size_t>(Hs)), drouted(static_cast<size_t>(E)),
        dmix(routing.mix.size());
    for (int64_t h = 0; h < Hs; ++h) {
      dshared[h] = dgate(h) * factor.shared * mix0;
      dmix[0] += dgate(h) * factor.shared * routing.shared[h];
    }
    for (int64_t e = 0; e < E; ++e) {
      if (!routing.chosen[e]) continue;
      const T share = args.config.renormalises ? routing.chosen_share[e] : routing.routed[e];
      drouted[e] = dgate(Hs + e) * factor.routed * mix1;
      if (Hs > 0) dmix[1] += dgate(Hs + e) * factor.routed * share;
    }
    add_softmax_gradient(routing.shared, dshared, dz);
    add_softmax_gradient(args.config.renormalises ? routing.chosen_share : routing.routed, drouted, dz + Hs);
    add_softmax_gradient(routing.mix, dmix, dz + Hs + E);
    for (int64_t e = 0; e < E; ++e) drouted[e] = balance * args.fractions(e);
    add_softmax_gradient(routing.routed, drouted, dz + Hs);
  }
}

HEADWAY_KERNEL(cpu, moh_gates_forward<float>);
HEADWAY_KERNEL(cpu, moh_gates_forward<double>);
HEADWAY_KERNEL(cpu, moh_gates_backward<float>);
HEADWAY_KERNEL(cpu, moh_gates_backward<double>);

}  // namespace
}  // namespace headway
