// Several ranks as threads of one process, for tests of collective behaviour.
#pragma once

#include <barrier>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/backend.h"
#include "core/comm/communicator.h"

namespace headway {

class ThreadRanks {
 public:
  explicit ThreadRanks(int size) : size_(size), barrier_(size), shared_(static_cast<size_t>(size)) {}

  /// work(communicator, stream) on every rank; returns when all have returned.
  void run(const std::function<void(Communicator&, Stream&)>& work) {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < size_; ++rank)
      threads.emplace_back([this, rank, &work] {
        Rank communicator(*this, rank);
        const std::unique_ptr<Stream> stream = cpu_backend().make_stream();
        work(communicator, *stream);
      });
  }

 private:
  class Rank final : public Communicator {
   public:
    Rank(ThreadRanks& all, int rank) : all_(all), rank_(rank) {}
    int rank() const override { return rank_; }
    int size() const override { return all_.size_; }
    int local_rank() const override { return rank_; }
    void all_reduce(const Tensor& tensor, Reduce reduce, Stream&) override {
      if (reduce != Reduce::min) throw std::logic_error("only the minimum is needed here");
      all_.shared_[static_cast<size_t>(rank_)] = tensor;
      barrier();
      std::vector<int64_t> least(static_cast<size_t>(tensor.numel()), INT64_MAX);
      for (const Tensor& other : all_.shared_)
        for (size_t i = 0; i < least.size(); ++i) least[i] = std::min(least[i], other.data<int64_t>()[i]);
      barrier();
      std::memcpy(tensor.raw(), least.data(), tensor.bytes());
    }
    std::unique_ptr<PendingReduce> start_all_reduce(const Tensor&, Reduce, Stream&) override {
      throw std::logic_error("not needed here");
    }
    void broadcast(const Tensor& tensor, int root, Stream&) override {
      if (rank_ == root) all_.shared_[0] = tensor;
      barrier();
      if (rank_ != root) std::memcpy(tensor.raw(), all_.shared_[0].raw(), tensor.bytes());
      barrier();
    }
    void barrier() override { all_.barrier_.arrive_and_wait(); }
    [[noreturn]] void abort(int exit_status) override { std::exit(exit_status); }

   private:
    ThreadRanks& all_;
    int rank_;
  };

  int size_;
  std::barrier<> barrier_;
  std::vector<Tensor> shared_;
};

}  // namespace headway
