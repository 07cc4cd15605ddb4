#include "core/comm/thread.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/backend.h"
#include "core/comm/collective_check.h"
#include "core/comm/reduce_elements.h"
#include "core/error.h"

namespace headway {
namespace {

// What a rank asks for; all ranks must ask for the same at the same point.
struct Request {
  enum class Kind : uint8_t { all_reduce, all_gather, broadcast, barrier };
  Kind kind = Kind::barrier;
  Reduce reduce = Reduce::sum;
  int root = 0;
  Tensor tensor;

  bool agrees_with(const Request& other) const {
    if (kind != other.kind) return false;
    if (kind == Kind::barrier) return true;
    if (tensor.dtype() != other.tensor.dtype() || tensor.numel() != other.tensor.numel()) return false;
    return kind == Kind::all_reduce ? reduce == other.reduce : root == other.root;
  }
  std::string describe() const {
    switch (kind) {
      case Kind::all_reduce:
        return fmt::format("all_reduce ({}) of {} {}", reduce_name(), tensor.numel(),
                           to_string(tensor.dtype()));
      case Kind::all_gather:
        return fmt::format("all_gather of {} {}", tensor.numel(), to_string(tensor.dtype()));
      case Kind::broadcast:
        return fmt::format("broadcast of {} {} from rank {}", tensor.numel(), to_string(tensor.dtype()),
                           root);
      case Kind::barrier:
        break;
    }
    return "barrier";
  }

 private:
  const char* reduce_name() const {
    return reduce == Reduce::sum ? "sum" : reduce == Reduce::max ? "max" : "min";
  }
};

// What the ranks share: the collectives under way and whether the run has failed.
class Group {
 public:
  Group(int size, double timeout_s) : size_(size), timeout_s_(timeout_s) {}
  int size() const { return size_; }

  void join(int rank, uint64_t sequence, Request request) {
    std::lock_guard lock(mutex_);
    throw_if_failed();
    Meeting& meeting = meetings_[sequence];
    if (!meeting.requests.empty()) {
      const auto& [first_rank, first] = *meeting.requests.begin();
      if (!request.agrees_with(first))
        fail(fmt::format("ranks disagree about collective number {}: rank {} wants {}, rank {} wants {}",
                         sequence, first_rank, first.describe(), rank, request.describe()));
      throw_if_failed();
    }
    meeting.requests.emplace(rank, std::move(request));
    if (static_cast<int>(meeting.requests.size()) < size_) return;
    carry_out(meeting);
    meetings_.erase(sequence);
    changed_.notify_all();
  }

  bool is_done(uint64_t sequence) {
    std::lock_guard lock(mutex_);
    throw_if_failed();
    return !meetings_.contains(sequence);
  }

  void wait(int rank, uint64_t sequence) {
    std::unique_lock lock(mutex_);
    const bool ended = changed_.wait_for(lock, std::chrono::duration<double>(timeout_s_),
                                         [&] { return !failure_.empty() || !meetings_.contains(sequence); });
    if (!ended) {
      std::string missing;
      for (int other = 0; other < size_; ++other)
        if (!meetings_[sequence].requests.contains(other)) missing += fmt::format(" {}", other);
      fail(
          fmt::format("rank {}: {} (collective number {}) has not finished within {:g} s, missing rank(s):{}",
                      rank, meetings_[sequence].requests.at(rank).describe(), sequence, timeout_s_, missing));
    }
    // What has been carried out counts even if a rank failed afterwards.
    if (meetings_.contains(sequence)) throw_if_failed();
  }

  void report_failure(const std::string& message) {
    std::lock_guard lock(mutex_);
    fail(message);
    for (const auto& [key, part] : parts_) part->report_failure(message);
  }

  /// Returns one group per split and color, which all ranks that give that color share.
  std::shared_ptr<Group> part(uint64_t split_number, int color, int size) {
    std::lock_guard lock(mutex_);
    throw_if_failed();
    std::shared_ptr<Group>& part = parts_[{split_number, color}];
    if (!part) part = std::make_shared<Group>(size, timeout_s_);
    return part;
  }

 private:
  struct Meeting {
    std::map<int, Request> requests;  // by rank
  };

  static void carry_out(const Meeting& meeting) {
    const Request& first = meeting.requests.begin()->second;
    if (first.kind == Request::Kind::all_reduce) {
      std::vector<void*> buffers;
      for (const auto& [rank, request] : meeting.requests) buffers.push_back(request.tensor.raw());
      reduce_elements(buffers, buffers, 0, first.tensor.numel(), first.tensor.dtype(), first.reduce);
    } else if (first.kind == Request::Kind::all_gather) {
      const size_t part = first.tensor.bytes() / meeting.requests.size();
      for (const auto& [from, source] : meeting.requests)
        for (const auto& [to, target] : meeting.requests) {
          const size_t begin = static_cast<size_t>(from) * part;
          if (from != to && part > 0)
            std::memcpy(static_cast<std::byte*>(target.tensor.raw()) + begin,
                        static_cast<const std::byte*>(source.tensor.raw()) + begin, part);
        }
    } else if (first.kind == Request::Kind::broadcast && first.tensor.bytes() > 0) {
      const void* const from = meeting.requests.at(first.root).tensor.raw();
      for (const auto& [rank, request] : meeting.requests)
        if (rank != first.root) std::memcpy(request.tensor.raw(), from, first.tensor.bytes());
    }
  }

  void fail(const std::string& message) {
    if (failure_.empty()) failure_ = message;
    changed_.notify_all();
  }
  void throw_if_failed() const {
    if (!failure_.empty()) throw CommError(failure_);
  }

  const int size_;
  const double timeout_s_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, Meeting> meetings_;  // under way, by number
  std::map<std::pair<uint64_t, int>, std::shared_ptr<Group>> parts_;
  std::string failure_;
};

class ThreadPendingReduce final : public PendingReduce {
 public:
  ThreadPendingReduce(Group& group, int rank, uint64_t sequence)
      : group_(group), rank_(rank), sequence_(sequence) {}
  bool poll() override { return group_.is_done(sequence_); }
  void wait() override { group_.wait(rank_, sequence_); }

 private:
  Group& group_;
  int rank_;
  uint64_t sequence_;
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<Group> group, int rank) : shared_(std::move(group)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return group_.size(); }
  int local_rank() const override { return rank_; }

  void all_reduce(const Tensor& tensor, Reduce reduce, Stream& stream) override {
    start_all_reduce(tensor, reduce, stream)->wait();
  }
  std::unique_ptr<PendingReduce> start_all_reduce(const Tensor& tensor, Reduce reduce, Stream&) override {
    check_reducible(tensor);
    check_on_host(tensor, "all_reduce");
    const uint64_t sequence = join({Request::Kind::all_reduce, reduce, 0, tensor});
    return std::make_unique<ThreadPendingReduce>(group_, rank_, sequence);
  }
  std::unique_ptr<PendingReduce> start_reduce_scatter(const Tensor& tensor, Reduce reduce,
                                                      Stream& stream) override {
    check_parts(tensor, size(), "reduce_scatter");
    return start_all_reduce(tensor, reduce, stream);
  }
  void all_gather(const Tensor& tensor, Stream&) override {
    check_parts(tensor, size(), "all_gather");
    check_on_host(tensor, "all_gather");
    group_.wait(rank_, join({Request::Kind::all_gather, Reduce::sum, 0, tensor}));
  }
  void broadcast(const Tensor& tensor, int root, Stream&) override {
    check_broadcast(tensor, root, size());
    check_on_host(tensor, "broadcast");
    group_.wait(rank_, join({Request::Kind::broadcast, Reduce::sum, root, tensor}));
  }
  void barrier() override { group_.wait(rank_, join({})); }
  std::unique_ptr<Communicator> split(int color) override {
    std::vector<int32_t> colors(static_cast<size_t>(size()));
    colors[static_cast<size_t>(rank_)] = color;
    const auto stream = cpu_backend().make_stream();
    const Tensor all = Tensor::from<int32_t>(colors, {size()}, *stream);
    all_gather(all, *stream);
    colors = all.to_vector<int32_t>(*stream);
    const auto before = std::count(colors.begin(), colors.begin() + rank_, color);
    const auto count = std::count(colors.begin(), colors.end(), color);
    return std::make_unique<ThreadCommunicator>(group_.part(num_begun_, color, static_cast<int>(count)),
                                                static_cast<int>(before));
  }
  /// Ends this thread's part by an exception, which run_as_threads hands on.
  [[noreturn]] void abort(int exit_status) override {
    throw Error(static_cast<ExitCode>(exit_status),
                fmt::format("rank {} ended the run with status {}", rank_, exit_status));
  }

 private:
  uint64_t join(Request request) {
    group_.join(rank_, ++num_begun_, std::move(request));
    return num_begun_;
  }

  std::shared_ptr<Group> shared_;
  Group& group_ = *shared_;
  int rank_;
  uint64_t num_begun_ = 0;
};

}  // namespace

void run_as_threads(int size, double timeout_s, const std::function<void(Communicator&)>& f) {
  HEADWAY_CHECK(size > 0, CommError, fmt::format("{} ranks cannot run, expected at least 1", size));
  const auto group = std::make_shared<Group>(size, timeout_s);
  std::mutex mutex;
  std::exception_ptr first_error;
  const auto fail = [&](const std::string& message) {
    {
      std::lock_guard lock(mutex);
      if (!first_error) first_error = std::current_exception();
    }
    group->report_failure(message);
  };
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < size; ++rank)
    ranks.emplace_back([&, rank] {
      ThreadCommunicator communicator(group, rank);
      try {
        f(communicator);
      } catch (const std::exception& error) {
        fail(fmt::format("rank {} failed: {}", rank, error.what()));
      } catch (...) {
        fail(fmt::format("rank {} failed", rank));
      }
    });
  for (std::thread& rank : ranks) rank.join();
  if (first_error) std::rethrow_exception(first_error);
}

}  // namespace headway
