#include "kernels/ops/matmul.h"

#include <cblas.h>

#include <algorithm>

#include "kernels/cpu/parallel.h"

namespace headway {
namespace {

void gemm(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int m, int n, int k, float alpha, const float* a, int lda,
          const float* b, int ldb, float beta, float* c, int ldc) {
  cblas_sgemm(CblasRowMajor, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
void gemm(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int m, int n, int k, double alpha, const double* a, int lda,
          const double* b, int ldb, double beta, double* c, int ldc) {
  cblas_dgemm(CblasRowMajor, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

template <class T>
struct Operand {
  CBLAS_TRANSPOSE transpose;
  int leading;

  explicit Operand(const View<const T, 2>& view) {
    const bool rows_are_dense = view.stride[1] == 1 || view.size[1] == 1;
    transpose = rows_are_dense ? CblasNoTrans : CblasTrans;
    const int64_t stride = rows_are_dense ? view.stride[0] : view.stride[1];
    const int64_t width = rows_are_dense ? view.size[1] : view.size[0];
    leading = static_cast<int>(std::max<int64_t>({stride, width, 1}));
  }
};

template <class T>
void matmul(const Matmul<T>& args, Stream&) {
  const int64_t M = args.c.size[0], N = args.c.size[1], K = args.a.size[1];
  if (M == 0 || N == 0) return;
  if (args.bias && !args.accumulate) {
    for (int64_t m = 0; m < M; ++m) std::copy_n(args.bias.data, N, &args.c(m, 0));
  }
  const Operand<T> a(args.a), b(args.b);
  const T alpha = args.scale ? args.scale(0) : T(1);
  const T beta = args.accumulate || args.bias ? T(1) : T(0);
  gemm(a.transpose, b.transpose, static_cast<int>(M), static_cast<int>(N), static_cast<int>(K), alpha,
       args.a.data, a.leading, args.b.data, b.leading, beta, args.c.data,
       static_cast<int>(std::max(args.c.stride[0], N)));
}

template <class T>
void column_sum(const ColumnSum<T>& args, Stream&) {
  const int64_t M = args.x.size[0], N = args.x.size[1];
  constexpr int64_t kColumns = 256;  // a strip of columns stays in the first-level cache
#pragma omp parallel for if (M * N >= kSmallestParallel)
  for (int64_t first = 0; first < N; first += kColumns) {
    const int64_t width = std::min(kColumns, N - first);
    Acc<T>* sum = args.sum.data + first;
    if (!args.accumulate) std::fill_n(sum, width, Acc<T>(0));
    for (int64_t m = 0; m < M; ++m) {
      const T* row = args.x.data + m * N + first;
#pragma omp simd
      for (int64_t n = 0; n < width; ++n) sum[n] += row[n];
    }
  }
}

HEADWAY_KERNEL(cpu, matmul<float>);
HEADWAY_KERNEL(cpu, matmul<double>);
HEADWAY_KERNEL(cpu, column_sum<float>);
HEADWAY_KERNEL(cpu, column_sum<double>);

}  // namespace
}  // namespace headway
