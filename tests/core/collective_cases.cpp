#include "collective_cases.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

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

/// The places and the ways of one check.
struct Case {
  Communicator& comm;
  Memory memory;
  Stream& stream;

  /// Rank-dependent values in the case's memory.
  template <class T>
  Tensor tensor_of(const std::vector<T>& values) const {
    const Shape shape{static_cast<int64_t>(values.size())};
    const Tensor from = Tensor::from<T>(values, shape, stream);
    if (memory == Memory::of_the_device) return from;
    const Tensor tensor = comm.allocate(shape, dtype_of<T>, stream.device());
    tensor.copy_from(from, stream);
    return tensor;
  }
  template <class T>
  Tensor own_values(int64_t count) const {
    std::vector<T> values;
    for (int64_t i = 0; i < count; ++i) values.push_back(value_of<T>(comm.rank(), i));
    return tensor_of(values);
  }
  template <class T>
  T reduced(int64_t i, Reduce reduce) const {
    T result = value_of<T>(0, i);
    for (int rank = 1; rank < comm.size(); ++rank) {
      const T value = value_of<T>(rank, i);
      if (reduce == Reduce::sum) result = static_cast<T>(result + value);
      if (reduce == Reduce::max) result = std::max(result, value);
      if (reduce == Reduce::min) result = std::min(result, value);
    }
    return result;
  }
  template <class T>
  void require_reduced(const Tensor& tensor, int64_t lo, int64_t hi, Reduce reduce, const char* what) const {
    const std::vector<T> values = tensor.to_vector<T>(stream);
    for (int64_t i = lo; i < hi; ++i)
      if (values[static_cast<size_t>(i)] != reduced<T>(i, reduce))
        throw std::runtime_error(fmt::format("{}: element {} of {} {} is {}, expected {}", what, i,
                                             tensor.numel(), to_string(tensor.dtype()),
                                             values[static_cast<size_t>(i)], reduced<T>(i, reduce)));
  }
};

constexpr int64_t kSizes[] = {0, 1, 2, 3, 17, 1000, 4097, 100003};

template <class T>
void check_reductions(const Case& at) {
  for (const int64_t size : kSizes)
    for (const Reduce reduce : {Reduce::sum, Reduce::max, Reduce::min}) {
      const Tensor tensor = at.own_values<T>(size);
      at.comm.all_reduce(tensor, reduce, at.stream);
      at.require_reduced<T>(tensor, 0, size, reduce, "all_reduce");

      const int64_t part = size, first = part * at.comm.rank();
      const Tensor parts = at.own_values<T>(part * at.comm.size());
      at.comm.start_reduce_scatter(parts, reduce, at.stream)->wait();
      at.require_reduced<T>(parts, first, first + part, reduce, "reduce_scatter");
    }
}

uint8_t byte_of(int rank, size_t i) { return static_cast<uint8_t>(i * 31 + 100 * static_cast<size_t>(rank)); }

void check_copies(const Case& at) {
  for (const int64_t size : kSizes) {
    const auto count = static_cast<size_t>(size);
    for (int root = 0; root < at.comm.size(); ++root) {
      std::vector<uint8_t> bytes(count);
      for (size_t i = 0; i < count; ++i) bytes[i] = byte_of(at.comm.rank(), i);
      const Tensor tensor = at.tensor_of(bytes);
      at.comm.broadcast(tensor, root, at.stream);
      bytes = tensor.to_vector<uint8_t>(at.stream);
      for (size_t i = 0; i < count; ++i)
        if (bytes[i] != byte_of(root, i))
          throw std::runtime_error(fmt::format("broadcast: byte {} of {} is not rank {}'s", i, count, root));
    }
    std::vector<int32_t> parts(count * static_cast<size_t>(at.comm.size()), -1);
    for (size_t i = 0; i < count; ++i)
      parts[count * static_cast<size_t>(at.comm.rank()) + i] = static_cast<int32_t>(i) + 7 * at.comm.rank();
    const Tensor tensor = at.tensor_of(parts);
    at.comm.all_gather(tensor, at.stream);
    parts = tensor.to_vector<int32_t>(at.stream);
    for (size_t i = 0; i < parts.size(); ++i)
      if (parts[i] != static_cast<int32_t>(i % count) + 7 * static_cast<int32_t>(i / count))
        throw std::runtime_error(
            fmt::format("all_gather: element {} of {} is {}", i, parts.size(), parts[i]));
  }
}

}  // namespace

void check_all_collectives(Communicator& comm, Memory memory, Stream& stream) {
  const Case at{comm, memory, stream};
  comm.barrier();
  check_reductions<float>(at);
  check_reductions<double>(at);
  check_reductions<int32_t>(at);
  check_reductions<int64_t>(at);
  check_copies(at);
  comm.barrier();
}

void check_overlapping_reductions(Communicator& comm, Memory memory, Stream& stream) {
  const Case at{comm, memory, stream};
  constexpr int kUnderWay = 20;
  std::vector<Tensor> tensors;
  std::vector<std::unique_ptr<PendingReduce>> pending;
  for (int i = 0; i < kUnderWay; ++i) {
    tensors.push_back(at.own_values<float>(10007 * (i % 5) + i));
    pending.push_back(comm.start_all_reduce(tensors.back(), Reduce::sum, stream));
  }
  // A blocking collective in between must not wait for those, nor disturb them.
  const Tensor count = Tensor::from<int64_t>(std::vector<int64_t>{1}, {1}, stream);
  comm.all_reduce(count, Reduce::sum, stream);
  require(count.to_vector<int64_t>(stream)[0] == comm.size(),
          "a blocking all_reduce among pending ones is wrong");
  for (int i = kUnderWay - 1; i >= 0; --i) {
    (void)pending[i]->poll();
    pending[i]->wait();
    stream.synchronize();
    require(pending[i]->poll(), "poll() is false after wait()");
    at.require_reduced<float>(tensors[i], 0, tensors[i].numel(), Reduce::sum, "overlapping all_reduce");
  }
}

void check_equal_bits(Communicator& comm, Memory memory, Stream& stream) {
  const Case at{comm, memory, stream};
  constexpr int64_t kSize = 50021;
  const auto reduce = [&] {
    std::vector<float> values;
    const RandomKey key{static_cast<uint64_t>(comm.rank()) + 1, 0, 0, 0};
    for (int64_t i = 0; i < kSize; ++i) values.push_back(uniform(key, static_cast<uint64_t>(i)) - 0.5f);
    const Tensor tensor = at.tensor_of(values);
    comm.all_reduce(tensor, Reduce::sum, stream);
    return tensor.to_vector<float>(stream);
  };
  const std::vector<float> first = reduce();
  require(first == reduce(), "repeating an all_reduce changed its bits");
  const Tensor of_root = at.tensor_of(first);
  comm.broadcast(of_root, 0, stream);
  require(first == of_root.to_vector<float>(stream), "ranks have different bits");
}

void check_split(Communicator& comm, Memory memory, Stream& stream) {
  const Case at{comm, memory, stream};
  const auto part = comm.split(comm.rank() % 2);
  require(part->size() == (comm.size() + 1 - comm.rank() % 2) / 2, "a part has another size");
  require(part->rank() == comm.rank() / 2, "the ranks of a part have another order");
  const Tensor tensor = at.own_values<float>(10007);
  const auto pending = comm.start_all_reduce(tensor, Reduce::sum, stream);
  check_all_collectives(*part, memory, stream);
  check_agreement(*part);
  pending->wait();
  at.require_reduced<float>(tensor, 0, tensor.numel(), Reduce::sum, "all_reduce beside those of a part");
}

void check_agreement(Communicator& comm) {
  int runs = 0;
  agree(comm, [&] { ++runs; });
  require(runs == 1, "agree() runs the work once");
  for (int failing = 0; failing < comm.size(); ++failing) {
    std::string message;
    try {
      agree(comm, [&] {
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
      require(broadcast_text(comm, text, root) == std::string(size, static_cast<char>('a' + root)),
              "every rank has the root's text");
    }
}

}  // namespace headway
