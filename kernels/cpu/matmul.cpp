// BLAS products. OpenBLAS chooses the number of threads itself: on two cores it keeps products up to 64^3 on
// one, and from 80^3 on the second gains (105 to 159 GFLOP/s there, 114 to 202 at 128^3). Inside a parallel
// region it uses one. y = x W^T, dx = dy W and dW (+)= dy^T x run at the same speed.
#include "kernels/ops/matmul.h"

#include <cblas.h>

#include <algorithm>
#include <limits>

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

int blas_size(int64_t size) {
  HEADWAY_CHECK(size <= std::numeric_limits<int>::max(), ShapeError,
                "matmul: " + std::to_string(size) + " rows or columns are more than BLAS can count");
  return static_cast<int>(size);
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
    leading = blas_size(std::max<int64_t>({stride, width, 1}));
  }
};

template <class T>
void matmul_one(const Matmul<T>& args) {
  const int64_t M = args.c.size[0], N = args.c.size[1], K = args.a.size[1];
  if (M == 0 || N == 0) return;
  if (args.bias) {
#pragma omp parallel for if (M * N >= kSmallestParallel)
    for (int64_t m = 0; m < M; ++m) std::copy_n(args.bias.data, N, &args.c(m, 0));
  }
  const Operand<T> a(args.a), b(args.b);
  const int m = blas_size(M), n = blas_size(N), k = blas_size(K);
  const T alpha = args.scale ? args.scale(0) : T(1);
  const T beta = args.accumulate || args.bias ? T(1) : T(0);
  gemm(a.transpose, b.transpose, m, n, k, alpha, args.a.data, a.leading, args.b.data, b.leading, beta,
       args.c.data, blas_size(std::max(args.c.stride[0], N)));
}

template <class T>
void matmul(const Matmul<T>& args, Stream&) {
  Matmul<T> one = args;
  for (int64_t i = 0; i < args.batch.count; ++i) {
    one.a.data = args.a.data + i * args.batch.a;
    one.b.data = args.b.data + i * args.batch.b;
    one.c.data = args.c.data + i * args.batch.c;
    if (args.bias) one.bias.data = args.bias.data + i * args.batch.bias;
    matmul_one(one);
  }
}

// Blocks of rows first, then the sum of their sums: one order of additions for any number of threads.
template <class T>
void column_sum(const ColumnSum<T>& args, Stream& stream) {
  const int64_t M = args.x.size[0], N = args.x.size[1];
  const int64_t num_blocks = num_reduction_blocks(M);
  T* const partial =
      reinterpret_cast<T*>(stream.scratch(static_cast<size_t>(num_blocks * N) * sizeof(T)).data());
#pragma omp parallel for if (M * N >= kSmallestParallel)
  for (int64_t block = 0; block < num_blocks; ++block) {
    T* const sum = partial + block * N;
    std::fill_n(sum, N, T(0));
    for (int64_t m = M * block / num_blocks; m < M * (block + 1) / num_blocks; ++m) {
      const T* row = args.x.data + m * N;
#pragma omp simd
      for (int64_t n = 0; n < N; ++n) sum[n] += row[n];
    }
  }
  add_blocks(partial, num_blocks, args.sum, args.accumulate);
}

HEADWAY_KERNEL(cpu, matmul<float>);
HEADWAY_KERNEL(cpu, matmul<double>);
HEADWAY_KERNEL(cpu, column_sum<float>);
HEADWAY_KERNEL(cpu, column_sum<double>);

}  // namespace
}  // namespace headway
