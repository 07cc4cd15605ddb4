// Many rows: panels of the weight are transposed once and multiplied tile by tile (tile_gemm.h), where a
// number is one chain of multiply-adds over k. Few rows: the same chains without the panels.
#include "kernels/ops/linear_by_rows.h"

#include <omp.h>

#include <algorithm>

#include "kernels/cpu/attention/tile_gemm.h"
#include "kernels/cpu/parallel.h"

namespace headway {
namespace {

constexpr int64_t kPanel = 64;      // columns of y
constexpr int64_t kTileRows = 48;   // whole blocks of tile_gemm
constexpr int64_t kTaskRows = 480;  // share one transposed panel
constexpr int64_t kFewestRows = 8;  // with fewer, transposing costs more than it saves

template <class T>
T bias_of(const LinearByRows<T>& args, int64_t n) {
  return args.bias ? args.bias(n) : T(0);
}

/// Columns n .. n + width <= kLanes of row m. A vector of chains, as in tile_gemm: of scalar ones the
/// compiler would multiply several k at a time and then add, which rounds twice.
template <class T>
void few_columns(const LinearByRows<T>& args, int64_t m, int64_t n, int64_t width) {
  const int64_t K = args.x.size[1], stride = args.weight.stride[0];
  const T *const x = &args.x(m, 0), *const weight = &args.weight(n, 0);
  Vector<T> sum = {};
  for (int64_t k = 0; k < K; ++k) {
    Vector<T> terms = {};
    for (int64_t c = 0; c < width; ++c) terms[c] = weight[c * stride + k];
    sum += x[k] * terms;
  }
  for (int64_t c = 0; c < width; ++c) args.y(m, n + c) = sum[c] + bias_of(args, n + c);
}

template <class T>
void few_rows(const LinearByRows<T>& args) {
  const int64_t M = args.y.size[0], N = args.y.size[1];
#pragma omp parallel for collapse(2) if (args.weight.numel() >= kSmallestParallel)
  for (int64_t m = 0; m < M; ++m)
    for (int64_t n = 0; n < N; n += kLanes<T>) {
      if (n + kLanes<T> <= N)
        few_columns(args, m, n, kLanes<T>);
      else
        few_columns(args, m, n, N - n);
    }
}

/// Rows first .. end of the columns n .. n + width; panel [K][kPanel] and tile [kTileRows][kPanel] are
/// memory.
template <class T>
void many_rows(const LinearByRows<T>& args, int64_t first, int64_t end, int64_t n, T* panel, T* tile) {
  const int64_t K = args.x.size[1], width = std::min(kPanel, args.y.size[1] - n);
  const int64_t columns = (width + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
  for (int64_t c = 0; c < columns; ++c)
    for (int64_t k = 0; k < K; ++k) panel[k * kPanel + c] = c < width ? args.weight(n + c, k) : T(0);
  for (int64_t m = first; m < end; m += kTileRows) {
    const int64_t rows = std::min(kTileRows, end - m);
    tile_gemm<TileWrite::overwrite>(static_cast<int>(rows), static_cast<int>(columns), static_cast<int>(K),
                                    TileOperand<T>{&args.x(m, 0), args.x.stride[0], 1}, panel, kPanel, tile,
                                    kPanel);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < width; ++c) args.y(m + r, n + c) = tile[r * kPanel + c] + bias_of(args, n + c);
  }
}

template <class T>
void linear_by_rows(const LinearByRows<T>& args, Stream& stream) {
  const int64_t M = args.y.size[0], N = args.y.size[1], K = args.x.size[1];
  if (M < kFewestRows) return few_rows(args);
  const auto work = static_cast<size_t>(K * kPanel + kTileRows * kPanel);
  const auto num_threads = static_cast<size_t>(omp_get_max_threads());
  T* const memory = reinterpret_cast<T*>(stream.scratch(num_threads * work * sizeof(T)).data());
#pragma omp parallel for collapse(2) schedule(dynamic) if (M * N * K >= kSmallestParallel)
  for (int64_t first = 0; first < M; first += kTaskRows)
    for (int64_t n = 0; n < N; n += kPanel) {
      T* const panel = memory + static_cast<size_t>(omp_get_thread_num()) * work;
      many_rows(args, first, std::min(first + kTaskRows, M), n, panel, panel + K * kPanel);
    }
}

HEADWAY_KERNEL(cpu, linear_by_rows<float>);
HEADWAY_KERNEL(cpu, linear_by_rows<double>);

}  // namespace
}  // namespace headway
