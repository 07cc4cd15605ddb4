#include "collective_cases.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "core/backend.h"
#include "core/comm/agreement.h"
#include "core/rng.h"

namespace headway {
namespace {

void require(bool condition, const char* what) {
  if (!condition) throw std::runtime_error(what);
}

// Whole numbers, so that sums are exact in every dtype and order.
template <class T>
T value_of(int rank, int64_t i) {
  return static_cast<T>((i * 7 + 3 * rank) % 1000 - 400);
}

Tensor allocate(Communicator& comm, Memory memory, int64_t count, DType dtype) {
  if (memory == Memory::of_the_communicator) return comm.allocate({count}, dtype, Device{});
  return Tensor::empty({count}, dtype, Device{});
}

template <class T>
Tensor values_of(Communicator& comm, Memory memory, int64_t count) {
  const Tensor tensor = allocate(comm, memory, count, dtype_of<T>);
  for (int64_t i = 0; i < count; ++i) tensor.data<T>()[i] = value_of<T>(comm.rank(), i);
  return tensor;
}

template <class T>
void require_reduced(Communicator& comm, const Tensor& tensor, Reduce reduce, const char* what) {
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    T expected = value_of<T>(0, i);
    for (int rank = 1; rank < comm.size(); ++rank) {
      const T value = value_of<T>(rank, i);
      if (reduce == Reduce::sum) expected = static_cast<T>(expected + value);
      if (reduce == Reduce::max) expected = std::max(expected, value);
      if (reduce == Reduce::min) expected = std::min(expected, value);
    }
    if (tensor.data<T>()[i] != expected)
      throw std::runtime_error(fmt::format("{}: element {} of {} {} is {}, expected {}", what, i,
                                           tensor.numel(), to_string(tensor.dtype()), tensor.data<T>()[i],
                                           expected));
  }
}

constexpr int64_t kSizes[] = {0, 1, 2, 3, 17, 1000, 4097, 100003};

template <class T>
void check_reductions(Communicator& comm, Memory memory, Stream& stream) {
  for (const int64_t size : kSizes)
    for (const Reduce reduce : {Reduce::sum, Reduce::max, Reduce::min}) {
      const Tensor tensor = values_of<T>(comm, memory, size);
      comm.all_reduce(tensor, reduce, stream);
      require_reduced<T>(comm, tensor, reduce, "all_reduce");
    }
}

void check_broadcasts(Communicator& comm, Memory memory, Stream& stream) {
  for (int root = 0; root < comm.size(); ++root)
    for (const DType dtype : {DType::f32, DType::bf16, DType::u8, DType::i64})
      for (const int64_t size : kSizes) {
        const Tensor tensor = allocate(comm, memory, size, dtype);
        uint8_t* const bytes = static_cast<uint8_t*>(tensor.raw());
        for (size_t i = 0; i < tensor.bytes(); ++i)
          bytes[i] = static_cast<uint8_t>(i * 31 + 100 * static_cast<size_t>(comm.rank()));
        comm.broadcast(tensor, root, stream);
        for (size_t i = 0; i < tensor.bytes(); ++i)
          if (bytes[i] != static_cast<uint8_t>(i * 31 + 100 * static_cast<size_t>(root)))
            throw std::runtime_error(
                fmt::format("broadcast: byte {} of {} is not rank {}'s", i, tensor.bytes(), root));
      }
}

}  // namespace

void check_all_collectives(Communicator& comm, Memory memory) {
  const auto stream = cpu_backend().make_stream();
  comm.barrier();
  check_reductions<float>(comm, memory, *stream);
  check_reductions<double>(comm, memory, *stream);
  check_reductions<int32_t>(comm, memory, *stream);
  check_reductions<int64_t>(comm, memory, *stream);
  check_broadcasts(comm, memory, *stream);
  comm.barrier();
}

void check_overlapping_reductions(Communicator& comm, Memory memory) {
  const auto stream = cpu_backend().make_stream();
  constexpr int kUnderWay = 20;
  std::vector<Tensor> tensors;
  std::vector<std::unique_ptr<PendingReduce>> pending;
  for (int i = 0; i < kUnderWay; ++i) {
    tensors.push_back(values_of<float>(comm, memory, 10007 * (i % 5) + i));
    pending.push_back(comm.start_all_reduce(tensors.back(), Reduce::sum, *stream));
  }
  // A blocking collective in between must not wait for those, nor disturb them.
  const Tensor count = Tensor::from<int64_t>(std::vector<int64_t>{1}, {1}, *stream);
  comm.all_reduce(count, Reduce::sum, *stream);
  require(count.data<int64_t>()[0] == comm.size(), "a blocking all_reduce among pending ones is wrong");
  for (int i = kUnderWay - 1; i >= 0; --i) {
    (void)pending[i]->poll();
    pending[i]->wait();
    require(pending[i]->poll(), "poll() is false after wait()");
    require_reduced<float>(comm, tensors[i], Reduce::sum, "overlapping all_reduce");
  }
}

void check_equal_bits(Communicator& comm, Memory memory) {
  const auto stream = cpu_backend().make_stream();
  constexpr int64_t kSize = 50021;
  const auto reduce = [&] {
    const Tensor tensor = allocate(comm, memory, kSize, DType::f32);
    const RandomKey key{static_cast<uint64_t>(comm.rank()) + 1, 0, 0, 0};
    for (int64_t i = 0; i < kSize; ++i)
      tensor.data<float>()[i] = uniform(key, static_cast<uint64_t>(i)) - 0.5f;
    comm.all_reduce(tensor, Reduce::sum, *stream);
    return tensor;
  };
  const Tensor first = reduce(), again = reduce(), of_root = first.clone(*stream);
  require(std::memcmp(first.raw(), again.raw(), first.bytes()) == 0,
          "repeating an all_reduce changed its bits");
  comm.broadcast(of_root, 0, *stream);
  require(std::memcmp(first.raw(), of_root.raw(), first.bytes()) == 0, "ranks have different bits");
}

void check_agreement(Communicator& comm) {
  const auto stream = cpu_backend().make_stream();
  int runs = 0;
  agree(comm, *stream, [&] { ++runs; });
  require(runs == 1, "agree() runs the work once");
  for (int failing = 0; failing < comm.size(); ++failing) {
    std::string message;
    try {
      agree(comm, *stream, [&] {
        if (comm.rank() >= failing) throw DataError(fmt::format("bad token on {}", comm.rank()));
      });
    } catch (const DataError& error) {
      message = error.what();
    }
    const std::string prefix = failing == 0 ? "" : fmt::format("rank {}: ", failing);
    require(message == prefix + fmt::format("bad token on {}", failing),
            "every rank throws the lowest rank's error");
  }
  for (int root = 0; root < comm.size(); ++root)
    for (const size_t size : {size_t{0}, size_t{1}, size_t{100'000}}) {
      const std::string text(comm.rank() == root ? size : 3, static_cast<char>('a' + comm.rank()));
      require(broadcast_text(comm, *stream, text, root) == std::string(size, static_cast<char>('a' + root)),
              "every rank has the root's text");
    }
}

}  // namespace headway
