// How an operation finds its kernel. The argument struct is the operation:
//
//   template <class T> struct RmsNormForward {
//     static constexpr const char* name = "rms_norm_forward";
//     View<const T, 2> x; ... ;
//     void check() const;        // throws ShapeError; called once, before the kernel
//   };
//
// kernels/cpu/rms_norm.cpp and kernels/cuda/rms_norm.cu each define functions void(const Args&, Stream&) and
// register them with one line. A missing kernel is a null entry, not a stub.
#pragma once

#include <array>
#include <string>

#include "core/device.h"
#include "core/error.h"
#include "core/profile.h"
#include "core/stream.h"

namespace headway {

template <class Args>
struct KernelTable {
  using Function = void (*)(const Args&, Stream&);
  static inline constinit std::array<Function, Device::kNumKinds> entry{};
};

template <class Args>
bool has_kernel(Device::Kind kind) {
  return KernelTable<Args>::entry[static_cast<size_t>(kind)] != nullptr;
}

/// Runs the kernel of the stream's device on it. DeviceError when that device has none.
template <class Args>
void launch(const Args& args, Stream& stream) {
  const auto kind = stream.device().kind;
  HEADWAY_CHECK(has_kernel<Args>(kind), DeviceError,
                std::string(Args::name) + " has no kernel for " + to_string(kind) + " with this dtype");
  args.check();
  const ProfileRange range(Args::name, stream);
  KernelTable<Args>::entry[static_cast<size_t>(kind)](args, stream);
}

template <class Args>
bool register_kernel(Device::Kind kind, void (*function)(const Args&, Stream&)) {
  KernelTable<Args>::entry[static_cast<size_t>(kind)] = function;
  return true;
}

}  // namespace headway

#define HEADWAY_CONCAT_(a, b) a##b
#define HEADWAY_CONCAT(a, b) HEADWAY_CONCAT_(a, b)
/// Enters a kernel into its table: HEADWAY_KERNEL(cpu, rms_norm_forward<float>);
#define HEADWAY_KERNEL(kind, ...)                                                      \
  [[maybe_unused]] static const bool HEADWAY_CONCAT(kernel_registered_, __COUNTER__) = \
      ::headway::register_kernel(::headway::Device::Kind::kind, &__VA_ARGS__)
