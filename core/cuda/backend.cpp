// NVIDIA GPUs through the CUDA runtime. One stream per Stream, not synchronised with the default one.
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <nvtx3/nvToolsExt.h>

#include <array>
#include <memory>
#include <mutex>
#include <vector>

#include "core/backend.h"
#include "core/cuda/architectures.h"
#include "core/cuda/check.h"
#include "core/stream.h"

namespace headway {
namespace {

class CudaEvent final : public Event {
 public:
  explicit CudaEvent(cudaStream_t stream) {
    check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "creating an event");
    check_cuda(cudaEventRecord(event_, stream), "recording an event");
  }
  ~CudaEvent() override { cudaEventDestroy(event_); }
  bool is_complete() const override {
    const cudaError_t status = cudaEventQuery(event_);
    if (status == cudaErrorNotReady) return false;
    check_cuda(status, "asking for an event");
    return true;
  }
  void synchronize() const override { check_cuda(cudaEventSynchronize(event_), "waiting for an event"); }
  cudaEvent_t native() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

class CudaGraph final : public Graph {
 public:
  /// Keeps what the recorded work uses as scratch memory.
  CudaGraph(cudaGraph_t graph, std::shared_ptr<Storage> scratch) : scratch_(std::move(scratch)) {
    const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    check_cuda(status, "preparing recorded work");
  }
  ~CudaGraph() override { cudaGraphExecDestroy(executable_); }
  void launch(Stream& stream) override {
    check_cuda(cudaGraphLaunch(executable_, stream.native()), "running recorded work");
  }

 private:
  cudaGraphExec_t executable_ = nullptr;
  std::shared_ptr<Storage> scratch_;
};

class CudaStream final : public Stream {
 public:
  explicit CudaStream(Device device) : Stream(device) {
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream");
  }
  ~CudaStream() override { cudaStreamDestroy(stream_); }
  void synchronize() override { check_cuda(cudaStreamSynchronize(stream_), "waiting for the GPU"); }
  std::shared_ptr<Event> record() override { return std::make_shared<CudaEvent>(stream_); }
  void wait(const Event& event) override {
    check_cuda(cudaStreamWaitEvent(stream_, static_cast<const CudaEvent&>(event).native(), 0),
               "waiting for an event");
  }
  void begin_recording() override {
    scratch_before_ = scratch_storage();
    // Relaxed: other threads go on calling CUDA, and this one may allocate.
    check_cuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "recording work");
  }
  std::unique_ptr<Graph> end_recording() override {
    cudaGraph_t graph = nullptr;
    check_cuda(cudaStreamEndCapture(stream_, &graph), "recording work");
    HEADWAY_CHECK(scratch_before_ == scratch_storage(), DeviceError,
                  "recording work: scratch memory grew; run the same work once before it is recorded");
    return std::make_unique<CudaGraph>(graph, std::move(scratch_before_));
  }
  CUstream_st* native() const override { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
  std::shared_ptr<Storage> scratch_before_;
};

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int index) : device_{Device::Kind::cuda, index} {
    use();
    cudaDeviceProp properties = {};
    check_cuda(cudaGetDeviceProperties(&properties, index), "reading the GPU's properties");
    HEADWAY_CHECK(
        runs_on(HEADWAY_CUDA_ARCHITECTURES, properties.major, properties.minor), DeviceError,
        fmt::format(
            "{} has compute capability {}.{}: this build has kernels for {} (configure with "
            "-DCMAKE_CUDA_ARCHITECTURES={}{} for this GPU), or use run.device = \"cpu\" (or --device cpu)",
            properties.name, properties.major, properties.minor, HEADWAY_CUDA_ARCHITECTURES, properties.major,
            properties.minor));
    std::array<char, 32> bus_id = {};
    check_cuda(cudaDeviceGetPCIBusId(bus_id.data(), static_cast<int>(bus_id.size()), index),
               "reading the GPU's place");
    bus_id_ = bus_id.data();
    description_ =
        fmt::format("{}, {:.0f} GiB, {} multiprocessors", properties.name,
                    static_cast<double>(properties.totalGlobalMem) * 0x1p-30, properties.multiProcessorCount);
  }

  void* allocate(size_t bytes) override {
    use();
    void* memory = nullptr;
    const cudaError_t status = cudaMalloc(&memory, bytes);
    if (status != cudaSuccess) cudaGetLastError();  // a failed allocation must not fail the next launch
    check_cuda(status, "allocating GPU memory");
    return memory;
  }
  void deallocate(void* memory) noexcept override { cudaFree(memory); }
  void* allocate_host(size_t bytes) override {
    use();
    void* memory = nullptr;
    check_cuda(cudaMallocHost(&memory, bytes), "allocating host memory for copies");
    return memory;
  }
  void deallocate_host(void* memory) noexcept override { cudaFreeHost(memory); }
  void copy(void* to, const void* from, size_t bytes, Stream& stream) override {
    if (bytes)
      check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream.native()), "copying memory");
  }
  void fill_zero(void* memory, size_t bytes, Stream& stream) override {
    if (bytes) check_cuda(cudaMemsetAsync(memory, 0, bytes, stream.native()), "clearing memory");
  }
  std::unique_ptr<Stream> make_stream() override {
    use();
    return std::make_unique<CudaStream>(device_);
  }
  std::string description() const override { return description_; }
  std::string bus_id() const override { return bus_id_; }

 private:
  /// Makes this device the calling thread's.
  void use() const { check_cuda(cudaSetDevice(device_.index), "choosing the GPU"); }

  Device device_;
  std::string description_;
  std::string bus_id_;
};

}  // namespace

void begin_range(const char* name) { nvtxRangePushA(name); }
void end_range() { nvtxRangePop(); }

int num_cuda_devices() {
  int count = 0, major = 0, minor = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) return 0;
  const bool fits = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) == cudaSuccess &&
                    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0) == cudaSuccess &&
                    runs_on(HEADWAY_CUDA_ARCHITECTURES, major, minor);
  return fits ? count : 0;
}

Backend& cuda_backend(int index) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  HEADWAY_CHECK(status == cudaSuccess, DeviceError,
                fmt::format("no GPU is usable: {}; use run.device = \"cpu\" (or --device cpu)",
                            cudaGetErrorString(status)));
  HEADWAY_CHECK(index < count, DeviceError,
                fmt::format("device cuda:{} does not exist: this machine has {} GPU{}", index, count,
                            count == 1 ? "" : "s"));
  static std::mutex mutex;
  // Never destroyed: storages may outlive main's locals.
  static auto& backends = *new std::vector<std::unique_ptr<CudaBackend>>();
  std::lock_guard lock(mutex);
  if (static_cast<int>(backends.size()) <= index) backends.resize(static_cast<size_t>(index) + 1);
  auto& backend = backends[static_cast<size_t>(index)];
  if (!backend) backend = std::make_unique<CudaBackend>(index);
  return *backend;
}

}  // namespace headway
