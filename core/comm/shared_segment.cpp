#include "core/comm/shared_segment.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/io/descriptor.h"

namespace headway {
namespace {

std::byte* map(int fd, size_t bytes) {
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<std::byte*>(memory);
}

std::vector<int64_t> gather(int rank, int size, int64_t value, const Exchange& exchange) {
  std::vector<int64_t> values(static_cast<size_t>(size));
  values[static_cast<size_t>(rank)] = value;
  exchange(values);
  return values;
}

int64_t random_token() {
  std::random_device device;
  return static_cast<int64_t>((static_cast<uint64_t>(device()) << 32) | device());
}

}  // namespace

SharedSegment::SharedSegment(int rank, int size, uint64_t number, size_t bytes, const Exchange& exchange)
    : number_(number), bytes_(bytes), mapped_(static_cast<size_t>(size)) {
  // Every rank goes through the same exchanges whatever fails, and throws only after the last one.
  std::string problem;
  const size_t mapped_bytes = kHeaderBytes + bytes_;
  const auto note = [&](const char* what) {
    if (problem.empty()) problem = fmt::format("{}: {}", what, std::strerror(errno));
  };
  const Descriptor own(memfd_create("headway", MFD_CLOEXEC));
  const int64_t token = random_token();
  // Reserving now turns a lack of memory into an error here instead of a signal at the first write.
  if (!own.is_open())
    note("memfd_create");
  else if (const int error = posix_fallocate(own.get(), 0, static_cast<off_t>(mapped_bytes)); error != 0)
    problem = fmt::format("{} bytes of shared memory: {}", mapped_bytes, std::strerror(error));
  else if (std::byte* const memory = map(own.get(), mapped_bytes); !memory)
    note("mmap");
  else
    mapped_[static_cast<size_t>(rank)] = memory, std::memcpy(memory, &token, sizeof token);

  const std::vector<int64_t> pids = gather(rank, size, getpid(), exchange);
  const std::vector<int64_t> fds = gather(rank, size, problem.empty() ? own.get() : -1, exchange);
  const std::vector<int64_t> tokens = gather(rank, size, token, exchange);
  for (int other = 0; other < size; ++other) {
    const auto index = static_cast<size_t>(other);
    if (other == rank || fds[index] < 0) continue;
    const std::string path = fmt::format("/proc/{}/fd/{}", pids[index], fds[index]);
    const Descriptor theirs(open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!theirs.is_open()) {
      note(path.c_str());
    } else if (lseek(theirs.get(), 0, SEEK_END) != static_cast<off_t>(mapped_bytes)) {
      if (problem.empty()) problem = path + " is not this run's shared memory";
    } else if (std::byte* const memory = map(theirs.get(), mapped_bytes); !memory) {
      note("mmap");
    } else {
      mapped_[index] = memory;
      if (std::memcmp(memory, &tokens[index], sizeof(int64_t)) != 0 && problem.empty())
        problem = path + " is not this run's shared memory";
    }
  }
  // Descriptors stay open until all ranks have mapped them: that is what this last exchange tells.
  const std::vector<int64_t> failures = gather(rank, size, problem.empty() ? 0 : 1, exchange);
  const auto failed = std::find(failures.begin(), failures.end(), 1);
  if (failed == failures.end()) return;
  unmap();
  throw CommError("the ranks of this machine cannot share memory: " +
                  (problem.empty() ? fmt::format("rank {} failed", failed - failures.begin()) : problem));
}

SharedSegment::~SharedSegment() { unmap(); }

void SharedSegment::unmap() noexcept {
  for (std::byte*& memory : mapped_)
    if (memory) munmap(std::exchange(memory, nullptr), kHeaderBytes + bytes_);
}

}  // namespace headway
