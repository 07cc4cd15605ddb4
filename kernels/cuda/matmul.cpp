// Matrix products through cuBLASLt. It thinks in columns, so C = A B is asked for as C^T = B^T A^T: the
// row-major memory of a matrix is the column-major memory of its transpose.
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "core/backend.h"
#include "core/cuda/check.h"
#include "kernels/cuda/matmul_trial.h"
#include "kernels/cuda/round.h"
#include "kernels/ops/matmul.h"

namespace headway {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what cuBLAS asks for on Hopper
constexpr int kMostCandidates = 8;
constexpr double kWorthTrying = 4e9;  // floating-point operations: some ten microseconds

void check_cublas(cublasStatus_t status) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw DeviceError(std::string("matmul: cuBLASLt failed: ") + cublasLtGetStatusString(status));
}

template <class T>
constexpr cudaDataType_t kDataType = std::is_same_v<T, bf16> ? CUDA_R_16BF : CUDA_R_32F;

/// One matrix as cuBLASLt sees it: columns of `leading` elements, taken as they are or transposed.
struct Layout {
  cublasOperation_t op;
  int64_t rows, columns, leading;
};

/// The transpose of a row-major view, as a column-major operand.
template <class T>
Layout transposed(const View<T, 2>& view) {
  const bool rows_are_dense = view.stride[1] == 1 || view.size[1] == 1;
  if (rows_are_dense)
    return {CUBLAS_OP_N, view.size[1], view.size[0], std::max({view.stride[0], view.size[1], int64_t{1}})};
  return {CUBLAS_OP_T, view.size[0], view.size[1], std::max({view.stride[1], view.size[0], int64_t{1}})};
}

/// Bytes that the first element of every matrix of a batch is aligned to.
template <class T>
uint32_t alignment_of(const View<T, 2>& first, int64_t count, int64_t step) {
  const size_t step_bytes = count > 1 ? static_cast<size_t>(step) * sizeof(T) : 0;
  const size_t bits = reinterpret_cast<uintptr_t>(first.data) | step_bytes;
  return bits == 0 ? 256 : static_cast<uint32_t>(std::min<size_t>(256, bits & (~bits + 1)));
}

/// What an algorithm is chosen by.
using Key = std::tuple<int, int, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int, int, uint32_t,
                       uint32_t, uint32_t, int, bool, int64_t, int64_t, int64_t, int64_t>;

/// What else is done with a product before it is stored.
struct Epilogue {
  cublasLtEpilogue_t kind = CUBLASLT_EPILOGUE_DEFAULT;
  void* inner = nullptr;  // of GELU: written forward, read backward; laid out as c
};

class Descriptor {
 public:
  Descriptor(cublasComputeType_t compute, bool device_scale) {
    check_cublas(cublasLtMatmulDescCreate(&descriptor_, compute, CUDA_R_32F));
    set(CUBLASLT_MATMUL_DESC_POINTER_MODE,
        device_scale ? CUBLASLT_POINTER_MODE_DEVICE : CUBLASLT_POINTER_MODE_HOST);
  }
  ~Descriptor() { cublasLtMatmulDescDestroy(descriptor_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  template <class V>
  void set(cublasLtMatmulDescAttributes_t attribute, const V& value) {
    check_cublas(cublasLtMatmulDescSetAttribute(descriptor_, attribute, &value, sizeof(value)));
  }
  cublasLtMatmulDesc_t get() const { return descriptor_; }

 private:
  cublasLtMatmulDesc_t descriptor_ = nullptr;
};

class MatrixLayout {
 public:
  /// step: elements from one matrix of a batch to the next
  MatrixLayout(cudaDataType_t type, const Layout& layout, int64_t count, int64_t step) {
    check_cublas(cublasLtMatrixLayoutCreate(&layout_, type, static_cast<uint64_t>(layout.rows),
                                            static_cast<uint64_t>(layout.columns), layout.leading));
    if (count == 1) return;
    set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<int32_t>(count));
    set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, step);
  }
  ~MatrixLayout() { cublasLtMatrixLayoutDestroy(layout_); }
  MatrixLayout(const MatrixLayout&) = delete;
  MatrixLayout& operator=(const MatrixLayout&) = delete;
  cublasLtMatrixLayout_t get() const { return layout_; }

 private:
  template <class V>
  void set(cublasLtMatrixLayoutAttribute_t attribute, V value) {
    check_cublas(cublasLtMatrixLayoutSetAttribute(layout_, attribute, &value, sizeof(value)));
  }

  cublasLtMatrixLayout_t layout_ = nullptr;
};

/// Of one device: the library's handle, the algorithms chosen so far, and the numbers 0 and 1 in its memory.
struct Library {
  cublasLtHandle_t handle = nullptr;
  std::map<Key, cublasLtMatmulAlgo_t> algorithms;
  void* zero_one = nullptr;
};

Library& library_of(Stream& stream) {
  static std::map<int, Library*> libraries;  // never destroyed: the driver may be gone by then
  Library*& library = libraries[stream.device().index];
  if (!library) {
    library = new Library;
    check_cublas(cublasLtCreate(&library->handle));
    const float values[2] = {0, 1};
    library->zero_one = backend(stream.device()).allocate(sizeof(values));
    check_cuda(cudaMemcpy(library->zero_one, values, sizeof(values), cudaMemcpyHostToDevice), "matmul");
  }
  return *library;
}

/// Memory that algorithms are tried on.
struct TrialMemory {
  void *a, *b, *c, *inner;
};
struct Trial {
  int64_t a_elements, b_elements;  // bf16
  size_t c_bytes;
  bool has_inner;
};

/// Index of the algorithm that ran fastest among those with the bits of the first one, which the library
/// recommends. Products of random numbers tell them apart: another order of additions rounds otherwise. So
/// the choice may differ from run to run, the results do not.
template <class Run>
size_t fastest(const Trial& trial, std::span<const cublasLtMatmulHeuristicResult_t> candidates,
               Stream& stream, Run run) {
  // Straight from the device: the sizes are those of no tensor.
  Backend& device = backend(stream.device());
  std::vector<void*> taken;
  const auto take = [&](size_t bytes) { return taken.emplace_back(device.allocate(bytes)); };
  const auto give_back = [&] {
    for (void* const memory : taken) device.deallocate(memory);
  };
  size_t best = 0;
  try {
    const auto random = [&](int64_t elements) {
      auto* const memory = static_cast<bf16*>(take(static_cast<size_t>(elements) * sizeof(bf16)));
      cuda::fill_random(memory, elements, stream);
      return memory;
    };
    const int64_t c_words = static_cast<int64_t>(trial.c_bytes / sizeof(uint32_t));
    auto* const num_different = static_cast<unsigned*>(take(sizeof(unsigned)));
    void* const first = take(trial.c_bytes);
    const TrialMemory memory{.a = random(trial.a_elements),
                             .b = random(trial.b_elements),
                             .c = take(trial.c_bytes),
                             .inner = trial.has_inner ? random(c_words * 2) : nullptr};
    double best_ms = 0;
    for (size_t i = 0; i < candidates.size(); ++i) {
      if (run(memory, candidates[i].algo) != CUBLAS_STATUS_SUCCESS) continue;
      if (i == 0) device.copy(first, memory.c, trial.c_bytes, stream);
      if (i > 0 &&
          cuda::count_different(static_cast<const uint32_t*>(first), static_cast<const uint32_t*>(memory.c),
                                c_words, num_different, stream) > 0)
        continue;
      const double ms = cuda::median_milliseconds([&] { run(memory, candidates[i].algo); }, stream);
      if (i == 0 || ms < best_ms) best = i, best_ms = ms;
    }
  } catch (const MemoryError&) {  // the recommended one then
  }
  give_back();
  return best;
}

template <class T, class C>
void matmul(const Matmul<T, C>& args, Epilogue epilogue, Stream& stream) {
  const int64_t M = args.c.size[0], N = args.c.size[1], K = args.a.size[1];
  const MatmulBatch& batch = args.batch;
  if (M == 0 || N == 0 || batch.count == 0) return;
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  Library& library = library_of(stream);

  const Layout b = transposed(args.b), a = transposed(args.a);
  const Layout c{CUBLAS_OP_N, N, M, std::max(args.c.stride[0], N)};
  Descriptor descriptor(CUBLAS_COMPUTE_32F, args.scale.data != nullptr);
  descriptor.set(CUBLASLT_MATMUL_DESC_TRANSA, b.op);
  descriptor.set(CUBLASLT_MATMUL_DESC_TRANSB, a.op);
  const int64_t bias_size = N + (batch.count - 1) * batch.bias;
  const size_t bias_bytes =
      args.bias && !std::is_same_v<C, float> ? static_cast<size_t>(bias_size) * sizeof(C) : 0;
  const auto scratch = stream.scratch(kWorkspaceBytes + bias_bytes);
  if (args.bias) {
    const void* bias = args.bias.data;
    if constexpr (!std::is_same_v<C, float>) {  // the epilogue reads a bias of the result's type
      bf16* const rounded = reinterpret_cast<bf16*>(scratch.data() + kWorkspaceBytes);
      cuda::round_to_bf16(args.bias.data, rounded, bias_size, stream);
      bias = rounded;
    }
    epilogue.kind = epilogue.inner ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_BIAS;
    descriptor.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    if (batch.count > 1) descriptor.set(CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, batch.bias);
  }
  descriptor.set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue.kind);
  if (epilogue.inner) {
    descriptor.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, epilogue.inner);
    descriptor.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, c.leading);
  }
  const MatrixLayout b_layout(kDataType<T>, b, batch.count, batch.b),
      a_layout(kDataType<T>, a, batch.count, batch.a), c_layout(kDataType<C>, c, batch.count, batch.c);

  const uint32_t a_alignment = alignment_of(args.a, batch.count, batch.a),
                 b_alignment = alignment_of(args.b, batch.count, batch.b),
                 c_alignment = alignment_of(args.c, batch.count, batch.c);
  const Key key{b.op,
                a.op,
                M,
                N,
                K,
                b.leading,
                a.leading,
                c.leading,
                kDataType<T>,
                kDataType<C>,
                a_alignment,
                b_alignment,
                c_alignment,
                static_cast<int>(epilogue.kind),
                args.scale.data != nullptr,
                batch.count,
                batch.a,
                batch.b,
                batch.c};
  auto found = library.algorithms.find(key);
  if (found == library.algorithms.end()) {
    cublasLtMatmulPreference_t preference = nullptr;
    check_cublas(cublasLtMatmulPreferenceCreate(&preference));
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      check_cublas(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b_alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a_alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c_alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c_alignment);
    std::array<cublasLtMatmulHeuristicResult_t, kMostCandidates> results = {};
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        library.handle, descriptor.get(), b_layout.get(), a_layout.get(), c_layout.get(), c_layout.get(),
        preference, kMostCandidates, results.data(), &count);
    cublasLtMatmulPreferenceDestroy(preference);
    check_cublas(status);
    HEADWAY_CHECK(count > 0, DeviceError,
                  "matmul: cuBLASLt has no algorithm for [" + std::to_string(M) + ", " + std::to_string(K) +
                      "] times [" + std::to_string(K) + ", " + std::to_string(N) + "]");
    size_t best = 0;
    const double flop = 2.0 * static_cast<double>(M) * static_cast<double>(N) * static_cast<double>(K);
    if (std::is_same_v<T, bf16> && batch.count == 1 && flop >= kWorthTrying) {
      const Trial trial{.a_elements = b.leading * b.columns,
                        .b_elements = a.leading * a.columns,
                        .c_bytes = static_cast<size_t>(c.leading * c.columns) * sizeof(C),
                        .has_inner = epilogue.inner != nullptr};
      best = fastest(trial, std::span(results).first(static_cast<size_t>(count)), stream,
                     [&](const TrialMemory& memory, const cublasLtMatmulAlgo_t& algorithm) {
                       const float one = 1, zero = 0;
                       const auto* const ones = static_cast<const float*>(library.zero_one) + 1;
                       if (memory.inner)
                         descriptor.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, memory.inner);
                       return cublasLtMatmul(library.handle, descriptor.get(), args.scale ? ones : &one,
                                             memory.a, b_layout.get(), memory.b, a_layout.get(),
                                             args.scale ? ones - 1 : &zero, memory.c, c_layout.get(),
                                             memory.c, c_layout.get(), &algorithm, scratch.data(),
                                             kWorkspaceBytes, stream.native());
                     });
      if (epilogue.inner) descriptor.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, epilogue.inner);
    }
    found = library.algorithms.emplace(key, results[best].algo).first;
  }

  const float one = 1, zero = 0;
  const auto* const zero_one = static_cast<const float*>(library.zero_one);
  const void* const alpha = args.scale ? static_cast<const void*>(args.scale.data) : &one;
  const void* const beta = args.scale ? static_cast<const void*>(zero_one + (args.accumulate ? 1 : 0))
                                      : static_cast<const void*>(args.accumulate ? &one : &zero);
  check_cublas(cublasLtMatmul(library.handle, descriptor.get(), alpha, args.b.data, b_layout.get(),
                              args.a.data, a_layout.get(), beta, args.c.data, c_layout.get(), args.c.data,
                              c_layout.get(), &found->second, scratch.data(), kWorkspaceBytes,
                              stream.native()));
}

void matmul_bf16(const Matmul<bf16>& args, Stream& stream) { matmul(args, {}, stream); }
void matmul_bf16_to_float(const Matmul<bf16, float>& args, Stream& stream) { matmul(args, {}, stream); }
void matmul_float(const Matmul<float>& args, Stream& stream) { matmul(args, {}, stream); }

void matmul_gelu(const MatmulGelu<bf16>& args, Stream& stream) {
  const bool is_forward = args.direction == MatmulGelu<bf16>::Direction::forward;
  matmul(
      args.product,
      {.kind = is_forward ? CUBLASLT_EPILOGUE_GELU_AUX : CUBLASLT_EPILOGUE_DGELU, .inner = args.inner.data},
      stream);
}

HEADWAY_KERNEL(cuda, matmul_bf16);
HEADWAY_KERNEL(cuda, matmul_bf16_to_float);
HEADWAY_KERNEL(cuda, matmul_float);
HEADWAY_KERNEL(cuda, matmul_gelu);

}  // namespace
}  // namespace headway
