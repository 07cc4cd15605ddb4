#include "grad_reducer_case.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "core/backend.h"
#include "trainers/grad_reducer.h"

namespace headway {
namespace {

constexpr size_t kBucketBytes = 4096;
// Larger than several buckets, exactly one, odd, empty, a scalar.
const std::vector<Shape> kShapes = {{7, 1111}, {3}, {32, 32}, {}, {0, 5}, {129, 3}, {17}, {1000}, {5000}};

// Whole numbers, whose sums are exact.
float value_of(int rank, int step, size_t index, int64_t i) {
  return static_cast<float>((i * 13 + 7 * rank + 5 * step + static_cast<int64_t>(index)) % 257);
}

}  // namespace

void check_grad_reducer(Communicator& comm) {
  const auto stream = cpu_backend().make_stream();
  GradReducer reducer(comm, *stream, kShapes, DType::f32, kBucketBytes);
  std::mt19937 order_of_rank(static_cast<unsigned>(comm.rank()));
  for (int step = 0; step < 3; ++step) {
    std::vector<size_t> order(kShapes.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::shuffle(order.begin(), order.end(), order_of_rank);
    for (const size_t index : order) {
      const Tensor& gradient = reducer.gradient(index);
      for (int64_t i = 0; i < gradient.numel(); ++i)
        gradient.data<float>()[i] = value_of(comm.rank(), step, index, i);
      reducer.ready(index);
    }
    reducer.finish();
    for (size_t index = 0; index < kShapes.size(); ++index)
      for (int64_t i = 0; i < kShapes[index].numel(); ++i) {
        float expected = 0;
        for (int rank = 0; rank < comm.size(); ++rank) expected += value_of(rank, step, index, i);
        const float actual = reducer.gradient(index).data<float>()[i];
        if (actual != expected)
          throw std::runtime_error(fmt::format("step {}: element {} of gradient {} is {}, expected {}", step,
                                               i, index, actual, expected));
      }
  }
}

}  // namespace headway
