#include "core/comm/nccl.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <nccl.h>
#include <unistd.h>
#include <xxhash.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/backend.h"
#include "core/comm/agreement.h"
#include "core/comm/collective_check.h"
#include "core/comm/collective_log.h"
#include "core/comm/waiting.h"
#include "core/error.h"

namespace headway {
namespace {

/// The functions of libnccl.so.2, which is never unloaded.
struct Nccl {
  decltype(&::ncclGetErrorString) error_string;
  decltype(&::ncclGetLastError) last_error;
  decltype(&::ncclGetUniqueId) get_unique_id;
  decltype(&::ncclCommInitRankConfig) init_rank;
  decltype(&::ncclCommGetAsyncError) async_error;
  decltype(&::ncclCommFinalize) finalize;
  decltype(&::ncclCommDestroy) destroy;
  decltype(&::ncclCommAbort) abort;
  decltype(&::ncclAllReduce) all_reduce;
  decltype(&::ncclReduceScatter) reduce_scatter;
  decltype(&::ncclAllGather) all_gather;
  decltype(&::ncclBroadcast) broadcast;
};

const Nccl& nccl() {
  static const Nccl functions = [] {
    void* const library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    HEADWAY_CHECK(
        library, CommError,
        fmt::format("several ranks on GPUs need NCCL, which cannot be loaded: {}; install libnccl2, or add "
                    "its folder to LD_LIBRARY_PATH",
                    dlerror()));
    const auto find = [&]<class F>(F& function, const char* name) {
      function = reinterpret_cast<F>(dlsym(library, name));
      HEADWAY_CHECK(function, CommError, fmt::format("this NCCL is too old: it has no {}", name));
    };
    Nccl found = {};
    find(found.error_string, "ncclGetErrorString");
    find(found.last_error, "ncclGetLastError");
    find(found.get_unique_id, "ncclGetUniqueId");
    find(found.init_rank, "ncclCommInitRankConfig");
    find(found.async_error, "ncclCommGetAsyncError");
    find(found.finalize, "ncclCommFinalize");
    find(found.destroy, "ncclCommDestroy");
    find(found.abort, "ncclCommAbort");
    find(found.all_reduce, "ncclAllReduce");
    find(found.reduce_scatter, "ncclReduceScatter");
    find(found.all_gather, "ncclAllGather");
    find(found.broadcast, "ncclBroadcast");
    return found;
  }();
  return functions;
}

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ncclFloat32;
    case DType::f64:
      return ncclFloat64;
    case DType::i32:
      return ncclInt32;
    case DType::i64:
      return ncclInt64;
    case DType::bf16:
    case DType::u8:
      break;
  }
  return ncclUint8;
}

ncclRedOp_t nccl_op(Reduce reduce) {
  switch (reduce) {
    case Reduce::max:
      return ncclMax;
    case Reduce::min:
      return ncclMin;
    case Reduce::sum:
      break;
  }
  return ncclSum;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The machine as NCCL tells machines apart, and the GPU in it.
int64_t name_of_gpu(Device device) {
  std::array<char, 256> host = {};
  gethostname(host.data(), host.size() - 1);
  const char* const given = std::getenv("NCCL_HOSTID");
  const std::string name = fmt::format("{} {}", given ? given : host.data(), backend(device).bus_id());
  return static_cast<int64_t>(XXH3_64bits(name.data(), name.size()));
}

/// DeviceError on every rank where two share a GPU: NCCL would refuse with less of a sentence.
void require_own_gpus(Communicator& host, Device device) {
  const auto size = static_cast<size_t>(host.size());
  std::vector<int64_t> names(size);
  names[static_cast<size_t>(host.rank())] = name_of_gpu(device);
  names = all_reduce_values(host, names, Reduce::sum);
  for (size_t a = 0; a < size; ++a)
    for (size_t b = a + 1; b < size; ++b)
      HEADWAY_CHECK(names[a] != names[b], DeviceError,
                    fmt::format("ranks {} and {} have the same GPU: start at most as many ranks on a machine "
                                "as it has GPUs ({} here)",
                                a, b, num_cuda_devices()));
}

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> host, Device device, double timeout_s)
      : host_(std::move(host)),
        device_(device),
        timeout_s_(timeout_s),
        num_exceptions_(std::uncaught_exceptions()) {
    agree(*host_, [&] { stream_ = backend(device_).make_stream(), nccl(); });
    require_own_gpus(*host_, device_);
    connect();
    watchdog_ = std::thread([this] { watch(); });
  }

  ~NcclCommunicator() override {
    const bool is_leaving = std::uncaught_exceptions() > num_exceptions_;
    // While an exception passes, peers may never come: what is under way is left to the end of the process.
    if (!is_leaving) stream_->synchronize();
    {
      std::lock_guard lock(mutex_);
      stops_ = true;
    }
    stopped_.notify_all();
    watchdog_.join();
    if (is_leaving || !nccl_) return;
    if (nccl().finalize(nccl_) == ncclInProgress) wait_until_done("ncclCommFinalize");
    nccl().destroy(nccl_);
  }

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  int local_rank() const override { return host_->local_rank(); }

  Tensor allocate(const Shape& shape, DType dtype, Device device) override {
    return device == device_ ? Tensor::empty(shape, dtype, device) : host_->allocate(shape, dtype, device);
  }

  void all_reduce(const Tensor& tensor, Reduce reduce, Stream& stream) override {
    if (!is_here(tensor)) return host_->all_reduce(tensor, reduce, stream);
    stream.wait(*begin_all_reduce(tensor, reduce, stream));
  }
  std::unique_ptr<PendingReduce> start_all_reduce(const Tensor& tensor, Reduce reduce,
                                                  Stream& stream) override {
    if (!is_here(tensor)) return host_->start_all_reduce(tensor, reduce, stream);
    return std::make_unique<Pending>(begin_all_reduce(tensor, reduce, stream), stream);
  }
  std::unique_ptr<PendingReduce> start_reduce_scatter(const Tensor& tensor, Reduce reduce,
                                                      Stream& stream) override {
    if (!is_here(tensor)) return host_->start_reduce_scatter(tensor, reduce, stream);
    check_reducible(tensor);
    check_parts(tensor, size(), "reduce_scatter");
    const auto count = static_cast<size_t>(tensor.numel() / size());
    return std::make_unique<Pending>(begin("reduce_scatter", tensor, stream,
                                           [&](ncclComm_t comm, cudaStream_t on) {
                                             return nccl().reduce_scatter(tensor.raw(), part_of(tensor),
                                                                          count, nccl_type(tensor.dtype()),
                                                                          nccl_op(reduce), comm, on);
                                           }),
                                     stream);
  }
  void all_gather(const Tensor& tensor, Stream& stream) override {
    if (!is_here(tensor)) return host_->all_gather(tensor, stream);
    check_parts(tensor, size(), "all_gather");
    const size_t bytes = tensor.bytes() / static_cast<size_t>(size());
    stream.wait(*begin("all_gather", tensor, stream, [&](ncclComm_t comm, cudaStream_t on) {
      return nccl().all_gather(part_of(tensor), tensor.raw(), bytes, ncclUint8, comm, on);
    }));
  }
  void broadcast(const Tensor& tensor, int root, Stream& stream) override {
    if (!is_here(tensor)) return host_->broadcast(tensor, root, stream);
    check_broadcast(tensor, root, size());
    stream.wait(*begin("broadcast", tensor, stream, [&](ncclComm_t comm, cudaStream_t on) {
      return nccl().broadcast(tensor.raw(), tensor.raw(), tensor.bytes(), ncclUint8, root, comm, on);
    }));
  }
  void barrier() override { host_->barrier(); }
  std::unique_ptr<Communicator> split(int color) override {
    return make_nccl_communicator(host_->split(color), device_, timeout_s_);
  }

  [[noreturn]] void abort(int exit_status) override {
    // Aborting frees kernels that wait for peers; it may itself wait for one, so nobody waits for it.
    if (nccl_) std::thread([comm = nccl_] { nccl().abort(comm); }).detach();
    host_->abort(exit_status);
    _exit(exit_status);
  }

 private:
  class Pending final : public PendingReduce {
   public:
    Pending(std::shared_ptr<Event> done, Stream& stream) : done_(std::move(done)), stream_(stream) {}
    bool poll() override { return done_->is_complete(); }
    void wait() override { stream_.wait(*done_); }

   private:
    std::shared_ptr<Event> done_;
    Stream& stream_;
  };

  /// A collective that the GPU has not finished. It keeps the tensor's memory.
  struct Flight {
    uint64_t sequence;
    std::shared_ptr<Event> done;
    Tensor tensor;
    std::chrono::steady_clock::time_point begun;
  };

  bool is_here(const Tensor& tensor) const { return tensor.device().kind == Device::Kind::cuda; }
  void* part_of(const Tensor& tensor) const {
    return static_cast<std::byte*>(tensor.raw()) +
           tensor.bytes() / static_cast<size_t>(size()) * static_cast<size_t>(rank());
  }

  void connect() {
    ncclUniqueId id = {};
    agree(*host_, [&] {
      if (rank() == 0) check(nccl().get_unique_id(&id), "ncclGetUniqueId");
    });
    const auto host_stream = cpu_backend().make_stream();
    const Tensor bytes = Tensor::from<uint8_t>(std::span(reinterpret_cast<const uint8_t*>(&id), sizeof(id)),
                                               {static_cast<int64_t>(sizeof(id))}, *host_stream);
    host_->broadcast(bytes, 0, *host_stream);
    std::memcpy(&id, bytes.raw(), sizeof(id));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    agree(*host_, [&] { check(nccl().init_rank(&nccl_, size(), id, rank(), &config), "ncclCommInitRank"); });
  }

  std::shared_ptr<Event> begin_all_reduce(const Tensor& tensor, Reduce reduce, Stream& stream) {
    check_reducible(tensor);
    return begin("all_reduce", tensor, stream, [&](ncclComm_t comm, cudaStream_t on) {
      return nccl().all_reduce(tensor.raw(), tensor.raw(), static_cast<size_t>(tensor.numel()),
                               nccl_type(tensor.dtype()), nccl_op(reduce), comm, on);
    });
  }

  /// Puts a collective on the communicator's stream, after what the caller's stream holds; returns its end.
  template <class Call>
  std::shared_ptr<Event> begin(const char* name, const Tensor& tensor, Stream& stream, Call call) {
    stream_->wait(*stream.record());
    if (tensor.numel() > 0) check(call(nccl_, stream_->native()), name);
    std::shared_ptr<Event> done = stream_->record();
    std::lock_guard lock(mutex_);
    under_way_.push_back({log_.begin(name, tensor.bytes()), done, tensor, std::chrono::steady_clock::now()});
    return done;
  }

  void check(ncclResult_t result, const char* call) {
    if (result == ncclInProgress) return wait_until_done(call);
    if (result != ncclSuccess) throw CommError(failure(result, call));
  }

  std::string failure(ncclResult_t result, const char* call) const {
    return fmt::format("{} failed: NCCL reports {} ({})", call, nccl().error_string(result),
                       nccl().last_error(nccl_));
  }

  /// A call on a communicator that does not block goes on in the background.
  void wait_until_done(const char* call) {
    const double limit_s = 3 * timeout_s_;
    const Waiting waiting(limit_s);
    ncclResult_t state = ncclInProgress;
    while (true) {
      nccl().async_error(nccl_, &state);
      if (state == ncclSuccess) return;
      if (state != ncclInProgress) throw CommError(failure(state, call));
      if (!waiting.pause())
        throw CommError(fmt::format("{} has not finished within {:g} s: a rank is missing, dead or stuck",
                                    call, limit_s));
    }
  }

  /// The watchdog's thread.
  void watch() {
    constexpr auto kInterval = std::chrono::milliseconds(50);
    std::unique_lock lock(mutex_);
    while (!stops_) {
      try {
        while (!under_way_.empty() && under_way_.front().done->is_complete()) {
          log_.end(under_way_.front().sequence);
          under_way_.pop_front();
          has_met_ = true;
        }
      } catch (const Error& error) {
        give_up(fmt::format("{}", error.what()));
      }
      ncclResult_t state = ncclSuccess;
      nccl().async_error(nccl_, &state);
      if (state != ncclSuccess && state != ncclInProgress) give_up(failure(state, "a collective"));
      const double limit_s = has_met_ ? timeout_s_ : 3 * timeout_s_;
      if (!under_way_.empty() && seconds_since(under_way_.front().begun) >= limit_s)
        give_up(fmt::format("{} has not finished within {:g} s: a rank is missing, dead or stuck",
                            log_.describe(under_way_.front().sequence), limit_s));
      stopped_.wait_for(lock, kInterval);
    }
  }

  [[noreturn]] void give_up(const std::string& reason) {
    constexpr auto kPeersMaySpeak = std::chrono::seconds(1);
    const std::string text =
        fmt::format("rank {} of {}: {}; ending all ranks\nrank {}: its last collectives:\n{}", rank(), size(),
                    reason, rank(), log_.dump());
    std::fputs(text.c_str(), stderr);
    std::fflush(stderr);
    std::this_thread::sleep_for(kPeersMaySpeak);
    abort(static_cast<int>(ExitCode::comm_failure));
  }

  std::unique_ptr<Communicator> host_;
  Device device_;
  double timeout_s_;
  int num_exceptions_;
  std::unique_ptr<Stream> stream_;
  ncclComm_t nccl_ = nullptr;

  std::mutex mutex_;  // of what follows, which the watchdog shares
  std::condition_variable stopped_;
  bool stops_ = false;
  bool has_met_ = false;  // a collective has finished
  CollectiveLog log_;
  std::list<Flight> under_way_;
  std::thread watchdog_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host, Device device,
                                                     double timeout_s) {
  return std::make_unique<NcclCommunicator>(std::move(host), device, timeout_s);
}

}  // namespace headway
