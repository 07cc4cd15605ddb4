// Named figures of a run: one JSON object per line in metrics.jsonl, and the same as metrics.csv.
//
// Numbers are printed shortest-round-trip, so two runs can be compared bit for bit. Names are slash-separated
// with their unit ("perf/tokens_per_s") and stable.
#pragma once

#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/context.h"

namespace headway {

/// One line: figures in the order they were added.
class MetricRow : public MetricSink {
 public:
  void add(std::string_view name, double value) override { values_.emplace_back(name, value); }
  const std::vector<std::pair<std::string, double>>& values() const { return values_; }
  /// {"step":1,...}; numbers that are not finite become strings, since JSON has none.
  std::string to_json() const;

 private:
  std::vector<std::pair<std::string, double>> values_;
};

class MetricsLog {
 public:
  /// Opens folder/metrics.jsonl for appending, dropping lines of later steps: a resumed run writes those
  /// again. IoError when the file cannot be written.
  MetricsLog(const std::filesystem::path& folder, int64_t resumed_step);
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;

  void write(const MetricRow&);
  /// Of the last line with this figure; -1 where there is none.
  int64_t last_step_with(std::string_view name) const;
  /// Writes folder/metrics.csv anew: a column per name, in order of appearance.
  void write_csv() const;

 private:
  std::filesystem::path jsonl_path_;
  std::filesystem::path csv_path_;
  std::FILE* file_ = nullptr;
};

}  // namespace headway
