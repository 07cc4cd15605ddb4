// The CPU as a device: everything runs at once on the calling thread and its OpenMP team.
#include <fmt/format.h>
#include <omp.h>

#include <cstdlib>
#include <cstring>

#include "core/backend.h"
#include "core/error.h"
#include "core/stream.h"

namespace headway {
namespace {

class CpuBackend final : public Backend {
 public:
  void* allocate(size_t bytes) override {
    constexpr size_t kAlignment = 64;  // a cache line, and the widest vector register
    void* memory = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
    HEADWAY_CHECK(memory, MemoryError, fmt::format("out of memory: the CPU has no {} bytes left", bytes));
    return memory;
  }
  void deallocate(void* memory) noexcept override { std::free(memory); }
  void* allocate_host(size_t bytes) override { return allocate(bytes); }
  void deallocate_host(void* memory) noexcept override { deallocate(memory); }
  void copy(void* to, const void* from, size_t bytes, Stream&) override {
    if (bytes) std::memcpy(to, from, bytes);
  }
  void fill_zero(void* memory, size_t bytes, Stream&) override {
    if (bytes) std::memset(memory, 0, bytes);
  }
  std::unique_ptr<Stream> make_stream() override { return std::make_unique<Stream>(Device{}); }
  std::string description() const override {
    const int threads = omp_get_max_threads();
    return fmt::format("CPU, {} thread{}", threads, threads == 1 ? "" : "s");
  }
};

}  // namespace

Backend& cpu_backend() {
  static CpuBackend instance;
  return instance;
}

}  // namespace headway
