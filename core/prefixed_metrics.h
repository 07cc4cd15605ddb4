// Names of figures with a prefix: the layer's, or that of a part of one.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "core/context.h"

namespace headway {

/// Puts a prefix before the names of figures on their way to a sink.
class PrefixedMetrics final : public MetricSink {
 public:
  PrefixedMetrics(MetricSink* inner, std::string prefix) : inner_(inner), prefix_(std::move(prefix)) {}
  void add(std::string_view name, double value) override { inner_->add(prefix_ + std::string(name), value); }
  /// Itself, or null where there is no sink behind it.
  MetricSink* sink() { return inner_ ? this : nullptr; }

 private:
  MetricSink* inner_;
  std::string prefix_;
};

}  // namespace headway
