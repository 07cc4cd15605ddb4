#include "core/comm/mpi.h"

#include <fmt/format.h>
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <list>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/comm/collective_check.h"
#include "core/comm/collective_log.h"
#include "core/comm/launch.h"
#include "core/comm/shared_reduce.h"
#include "core/comm/time_limit.h"
#include "core/comm/waiting.h"
#include "core/error.h"
#include "core/failure.h"

namespace headway {
namespace {

void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw CommError(fmt::format("{} failed: {}", call, text));
}

MPI_Datatype mpi_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return MPI_FLOAT;
    case DType::f64:
      return MPI_DOUBLE;
    case DType::i32:
      return MPI_INT32_T;
    case DType::i64:
      return MPI_INT64_T;
    case DType::bf16:
    case DType::u8:
      break;
  }
  return MPI_BYTE;
}

MPI_Op mpi_op(Reduce reduce) {
  switch (reduce) {
    case Reduce::max:
      return MPI_MAX;
    case Reduce::min:
      return MPI_MIN;
    case Reduce::sum:
      break;
  }
  return MPI_SUM;
}

// Ends this process with its status even if MPI_Abort never comes back.
[[noreturn]] void end_all_ranks(int exit_status) {
  constexpr auto kGrace = std::chrono::seconds(10);
  std::fflush(nullptr);
  std::thread([exit_status, kGrace] {
    std::this_thread::sleep_for(kGrace);
    _exit(exit_status);
  }).detach();
  MPI_Abort(MPI_COMM_WORLD, exit_status);
  _exit(exit_status);
}

// A collective that has been started. It owns a handle to its tensor, so the memory outlives the messages.
struct Collective {
  uint64_t sequence = 0;
  Tensor tensor;
  std::vector<MPI_Request> requests;
  std::optional<uint64_t> shared_number;  // of a reduction in shared memory, which has no messages

  bool messages_arrived() {
    int finished = 0;
    check(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &finished, MPI_STATUSES_IGNORE),
          "MPI_Testall");
    return finished != 0;
  }
};

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(const MpiSettings& settings)
      : settings_(settings), num_exceptions_(std::uncaught_exceptions()) {
    // MPI's own start waits for every rank, however long.
    const TimeLimit limit(settings.timeout_s, [&] {
      const Launch launch = read_launch();
      const std::string text = fmt::format(
          "rank {} of {}: MPI has not started within {:g} s: a rank is missing, dead or stuck; ending all "
          "ranks\n",
          launch.rank, launch.size, settings.timeout_s);
      std::fputs(text.c_str(), stderr);
      _exit(static_cast<int>(ExitCode::comm_failure));
    });
    int provided = MPI_THREAD_SINGLE;
    check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread");
    check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    HEADWAY_CHECK(provided >= MPI_THREAD_SERIALIZED, CommError,
                  fmt::format("this MPI allows thread level {} only, expected MPI_THREAD_SERIALIZED ({})",
                              provided, static_cast<int>(MPI_THREAD_SERIALIZED)));
    check(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
    starts_mpi_ = true;
    find_ranks();
    name_ = fmt::format("rank {} of {}", rank_, size_);
  }
  /// Takes over a part of the ranks; name: of this rank among all, for messages.
  MpiCommunicator(const MpiSettings& settings, MPI_Comm comm, const std::string& name)
      : settings_(settings), num_exceptions_(std::uncaught_exceptions()), comm_(comm), name_(name) {
    find_ranks();
  }
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  ~MpiCommunicator() override {
    if (!under_way_.empty() || std::uncaught_exceptions() > num_exceptions_) return;
    MPI_Comm_free(&comm_);
    if (starts_mpi_) MPI_Finalize();
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int local_rank() const override { return local_rank_; }

  Tensor allocate(const Shape& shape, DType dtype, Device device) override {
    if (!shares_memory_ || device.kind != Device::Kind::cpu) return Tensor::empty(shape, dtype, device);
    try {
      if (!shared_) shared_.emplace(rank_, size_, [this](std::span<int64_t> values) { exchange(values); });
      return shared_->allocate(shape, dtype);
    } catch (const CommError& error) {
      // Every rank comes here at the same allocation. What is shared already stays so.
      shares_memory_ = false;
      if (rank_ == 0)
        print_note(fmt::format("{}; reductions travel as messages, several times slower", error.what()));
      return Tensor::empty(shape, dtype, device);
    }
  }

  void all_reduce(const Tensor& tensor, Reduce reduce, Stream&) override {
    wait_for(begin_all_reduce(tensor, reduce));
  }

  std::unique_ptr<PendingReduce> start_all_reduce(const Tensor& tensor, Reduce reduce, Stream&) override;
  std::unique_ptr<PendingReduce> start_reduce_scatter(const Tensor& tensor, Reduce reduce, Stream&) override;

  void all_gather(const Tensor& tensor, Stream&) override {
    check_parts(tensor, size_, "all_gather");
    check_on_host(tensor, "all_gather");
    Collective& collective = begin("all_gather", tensor);
    if (shared_ && shared_->holds(tensor)) {
      collective.shared_number = shared_->begin(tensor, SharedReduce::Work::all_gather, Reduce::sum);
    } else {
      const auto part = static_cast<int64_t>(tensor.bytes()) / size_;
      for (int root = 0; root < size_; ++root) start_broadcast(collective, root * part, part, root);
    }
    wait_for(collective.sequence);
  }

  void broadcast(const Tensor& tensor, int root, Stream&) override {
    check_broadcast(tensor, root, size_);
    check_on_host(tensor, "broadcast");
    Collective& collective = begin("broadcast", tensor);
    start_broadcast(collective, 0, static_cast<int64_t>(tensor.bytes()), root);
    wait_for(collective.sequence);
  }

  void barrier() override {
    Collective& collective = begin("barrier", Tensor());
    check(MPI_Ibarrier(comm_, add_request(collective)), "MPI_Ibarrier");
    wait_for(collective.sequence);
  }

  std::unique_ptr<Communicator> split(int color) override {
    barrier();  // keeps the deadline, which MPI's own call does not
    MPI_Comm part = MPI_COMM_NULL;
    check(MPI_Comm_split(comm_, color, rank_, &part), "MPI_Comm_split");
    return std::make_unique<MpiCommunicator>(settings_, part, name_);
  }

  [[noreturn]] void abort(int exit_status) override { end_all_ranks(exit_status); }

  /// True when the collective has finished; lets all that are under way move on.
  bool advance(uint64_t sequence) {
    if (shared_) shared_->advance();
    for (auto it = under_way_.begin(); it != under_way_.end();) {
      if (it->shared_number ? shared_->is_finished(*it->shared_number) : it->messages_arrived()) {
        log_.end(it->sequence);
        it = under_way_.erase(it);
      } else {
        ++it;
      }
    }
    return std::none_of(under_way_.begin(), under_way_.end(),
                        [&](const Collective& collective) { return collective.sequence == sequence; });
  }

  void wait_for(uint64_t sequence) {
    const double limit_s = has_met_ ? settings_.timeout_s : settings_.first_timeout_s;
    const Waiting waiting(limit_s);
    while (!advance(sequence))
      if (!waiting.pause()) give_up(sequence, limit_s);
    has_met_ = true;
  }

  uint64_t begin_reduce_scatter(const Tensor& tensor, Reduce reduce) {
    check_parts(tensor, size_, "reduce_scatter");
    // As messages, reducing everything takes little longer than MPI's own way, which wants another buffer.
    if (!shared_ || !shared_->holds(tensor)) return begin_all_reduce(tensor, reduce);
    check_reducible(tensor);
    Collective& collective = begin("reduce_scatter", tensor);
    collective.shared_number = shared_->begin(tensor, SharedReduce::Work::reduce_scatter, reduce);
    return collective.sequence;
  }

 private:
  void find_ranks() {
    check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
    MPI_Comm machine = MPI_COMM_NULL;
    check(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &machine),
          "MPI_Comm_split_type");
    check(MPI_Comm_rank(machine, &local_rank_), "MPI_Comm_rank");
    int local_size = 1;
    check(MPI_Comm_size(machine, &local_size), "MPI_Comm_size");
    shares_memory_ = settings_.shares_memory && size_ > 1 && local_size == size_;
    check(MPI_Comm_free(&machine), "MPI_Comm_free");
  }

  uint64_t begin_all_reduce(const Tensor& tensor, Reduce reduce) {
    check_reducible(tensor);
    check_on_host(tensor, "all_reduce");
    Collective& collective = begin("all_reduce", tensor);
    if (shared_ && shared_->holds(tensor)) {
      collective.shared_number = shared_->begin(tensor, SharedReduce::Work::all_reduce, reduce);
      return collective.sequence;
    }
    for_each_message(tensor.numel(), [&](int64_t first, int count) {
      void* const values =
          static_cast<std::byte*>(tensor.raw()) + static_cast<size_t>(first) * size_of(tensor.dtype());
      check(MPI_Iallreduce(MPI_IN_PLACE, values, count, mpi_type(tensor.dtype()), mpi_op(reduce), comm_,
                           add_request(collective)),
            "MPI_Iallreduce");
    });
    return collective.sequence;
  }

  Collective& begin(const char* name, const Tensor& tensor) {
    const uint64_t sequence = log_.begin(name, tensor.defined() ? tensor.bytes() : 0);
    return under_way_.emplace_back(Collective{sequence, tensor, {}, {}});
  }

  void start_broadcast(Collective& collective, int64_t first_byte, int64_t bytes, int root) {
    for_each_message(bytes, [&](int64_t first, int count) {
      check(MPI_Ibcast(static_cast<std::byte*>(collective.tensor.raw()) + first_byte + first, count, MPI_BYTE,
                       root, comm_, add_request(collective)),
            "MPI_Ibcast");
    });
  }

  void exchange(std::span<int64_t> values) {
    Collective& collective = begin("exchange", Tensor());
    check(MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, values.data(), 1, MPI_INT64_T, comm_,
                         add_request(collective)),
          "MPI_Iallgather");
    wait_for(collective.sequence);
  }

  static MPI_Request* add_request(Collective& collective) {
    return &collective.requests.emplace_back(MPI_REQUEST_NULL);
  }

  // f(first, count) for each message that a transfer of num_elements is cut into.
  template <class F>
  void for_each_message(int64_t num_elements, F f) const {
    for (int64_t first = 0; first < num_elements; first += settings_.largest_message)
      f(first, static_cast<int>(std::min(settings_.largest_message, num_elements - first)));
  }

  [[noreturn]] void give_up(uint64_t sequence, double limit_s) {
    // Peers that wait too reach their own deadline and say so; who is silent is the one that is missing.
    constexpr auto kPeersMaySpeak = std::chrono::seconds(1);
    const std::string text = fmt::format(
        "{}: {} has not finished within {:g} s: {} missing, dead or stuck; ending all ranks\n"
        "{}: its last collectives:\n{}",
        name_, log_.describe(sequence), limit_s, who_is(sequence), name_, log_.dump());
    std::fputs(text.c_str(), stderr);
    std::fflush(stderr);
    std::this_thread::sleep_for(kPeersMaySpeak);
    end_all_ranks(static_cast<int>(ExitCode::comm_failure));
  }

  // MPI does not tell who has not arrived; shared memory does.
  std::string who_is(uint64_t sequence) const {
    for (const Collective& collective : under_way_)
      if (collective.sequence == sequence && collective.shared_number)
        if (const std::string ranks = shared_->missing_ranks(*collective.shared_number); !ranks.empty())
          return fmt::format("rank(s){} are", ranks);
    return "a rank is";
  }

  MpiSettings settings_;
  int num_exceptions_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  bool starts_mpi_ = false;
  std::string name_;
  int rank_ = 0;
  int size_ = 1;
  int local_rank_ = 0;
  bool shares_memory_ = false;
  std::optional<SharedReduce> shared_;
  bool has_met_ = false;  // a collective has finished
  CollectiveLog log_;
  std::list<Collective> under_way_;
};

class MpiPendingReduce final : public PendingReduce {
 public:
  MpiPendingReduce(MpiCommunicator& communicator, uint64_t sequence)
      : communicator_(communicator), sequence_(sequence) {}
  bool poll() override { return communicator_.advance(sequence_); }
  void wait() override { communicator_.wait_for(sequence_); }

 private:
  MpiCommunicator& communicator_;
  uint64_t sequence_;
};

std::unique_ptr<PendingReduce> MpiCommunicator::start_all_reduce(const Tensor& tensor, Reduce reduce,
                                                                 Stream&) {
  return std::make_unique<MpiPendingReduce>(*this, begin_all_reduce(tensor, reduce));
}

std::unique_ptr<PendingReduce> MpiCommunicator::start_reduce_scatter(const Tensor& tensor, Reduce reduce,
                                                                     Stream&) {
  return std::make_unique<MpiPendingReduce>(*this, begin_reduce_scatter(tensor, reduce));
}

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(const MpiSettings& settings) {
  return std::make_unique<MpiCommunicator>(settings);
}

}  // namespace headway
