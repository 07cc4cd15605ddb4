#include "core/comm/local.h"

#include <unistd.h>

#include <cstdio>

#include "core/comm/collective_check.h"

namespace headway {
namespace {

class FinishedReduce final : public PendingReduce {
 public:
  bool poll() override { return true; }
  void wait() override {}
};

class LocalCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  int local_rank() const override { return 0; }
  void all_reduce(const Tensor& tensor, Reduce, Stream&) override { check_reducible(tensor); }
  std::unique_ptr<PendingReduce> start_all_reduce(const Tensor& tensor, Reduce, Stream&) override {
    check_reducible(tensor);
    return std::make_unique<FinishedReduce>();
  }
  std::unique_ptr<PendingReduce> start_reduce_scatter(const Tensor& tensor, Reduce reduce,
                                                      Stream& stream) override {
    return start_all_reduce(tensor, reduce, stream);
  }
  void all_gather(const Tensor& tensor, Stream&) override { check_parts(tensor, 1, "all_gather"); }
  void broadcast(const Tensor& tensor, int root, Stream&) override { check_broadcast(tensor, root, 1); }
  void barrier() override {}
  std::unique_ptr<Communicator> split(int) override { return make_local_communicator(); }
  [[noreturn]] void abort(int exit_status) override {
    std::fflush(nullptr);
    _exit(exit_status);
  }
};

}  // namespace

std::unique_ptr<Communicator> make_local_communicator() { return std::make_unique<LocalCommunicator>(); }

}  // namespace headway
