// Which of several kernels takes a call of an operation, and why the faster ones do not.
//
// An operation with more than one kernel for a kind of device lists them, the fastest first, and run_first()
// asks each in turn. There is no other place that decides, so what KernelChoices tells the log is what ran.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "core/stream.h"

namespace headway {

template <class Args>
struct KernelOption {
  std::string_view name;  // as the log has it: "tensor-core"
  /// Why the kernel does not take a call, after "because"; empty where it does.
  std::string (*refusal)(const Args&, const Stream&);
  void (*run)(const Args&, Stream&);
};

/// Collects, while it lives, which kernels the calling thread's calls of run_first() took; one at a time in a
/// thread.
class KernelChoices {
 public:
  KernelChoices();
  ~KernelChoices();
  KernelChoices(const KernelChoices&) = delete;
  KernelChoices& operator=(const KernelChoices&) = delete;

  /// The collector that lives in this thread, or null.
  static KernelChoices*& current();
  /// Counts equal choices once. reasons: why faster kernels refused, empty where none did.
  void add(std::string_view op, std::string_view kernel, const std::string& reasons);
  /// "softmax_attention_forward: tensor-core; softmax_attention_backward: scalar (not tensor-core, because a
  /// head has 12 channels, which is no multiple of 8)"; empty where nothing was chosen.
  std::string summary() const;

 private:
  std::vector<std::string> choices_;
};

/// Runs the first option that takes the call; the last one takes every call.
template <class Args, size_t N>
void run_first(const std::array<KernelOption<Args>, N>& options, const Args& args, Stream& stream) {
  std::string reasons;
  for (size_t i = 0; i < N; ++i) {
    const KernelOption<Args>& option = options[i];
    const std::string refusal = i + 1 < N ? option.refusal(args, stream) : std::string();
    if (refusal.empty()) {
      if (KernelChoices* const choices = KernelChoices::current())
        choices->add(Args::name, option.name, reasons);
      return option.run(args, stream);
    }
    reasons.append(reasons.empty() ? "not " : "; not ").append(option.name).append(", because ");
    reasons += refusal;
  }
}

}  // namespace headway
