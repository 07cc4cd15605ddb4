#include "trainers/export_weights.h"

#include <fmt/format.h>

#include <array>
#include <fstream>
#include <string_view>

#include "core/backend.h"
#include "core/bf16.h"
#include "core/io/atomic_file.h"
#include "core/io/hdf5_archive.h"
#include "core/io/regular_file.h"
#include "trainers/checkpoint.h"
#include "trainers/checkpoint_folder.h"

namespace headway {
namespace {

namespace fs = std::filesystem;

bool is_hdf5(const fs::path& path) {
  constexpr std::string_view kSignature = "\x89HDF\r\n\x1a\n";
  if (is_no_regular_file(path)) return false;
  std::ifstream file(path, std::ios::binary);
  std::array<char, kSignature.size()> begin{};
  file.read(begin.data(), begin.size());
  return std::string_view(begin.data(), begin.size()) == kSignature;
}

template <class From, class To>
Tensor converted(const Tensor& tensor) {
  const Tensor result = Tensor::empty(tensor.shape(), dtype_of<To>, Device{});
  const From* from = tensor.data<From>();
  To* to = result.data<To>();
  for (int64_t i = 0; i < tensor.numel(); ++i) to[i] = static_cast<To>(static_cast<float>(from[i]));
  return result;
}

// Integers stay as they are.
Tensor as_dtype(const Tensor& tensor, std::optional<DType> dtype) {
  const bool is_float =
      tensor.dtype() == DType::f64 || tensor.dtype() == DType::f32 || tensor.dtype() == DType::bf16;
  if (!dtype || tensor.dtype() == *dtype || !is_float) return tensor;
  Tensor result;
  dispatch<double, float, bf16>(tensor.dtype(), "export", [&]<class From>() {
    result = *dtype == DType::bf16 ? converted<From, bf16>(tensor) : converted<From, float>(tensor);
  });
  return result;
}

void copy_attributes(const ArchiveReader& reader, const std::string& path, ArchiveWriter& writer) {
  for (const auto& [name, value] : reader.attributes(path)) {
    if (reader.has(path) && (name == "dtype" || name == "xxh3")) continue;  // the writer's own
    std::visit([&, &name = name](const auto& v) { writer.attribute(path, name, v); }, value);
  }
}

void copy_group(ArchiveReader& reader, std::string_view group, std::optional<DType> dtype,
                ArchiveWriter& writer) {
  const std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  for (const ArchiveEntry& entry : reader.entries(group)) {
    const Tensor tensor = Tensor::empty(entry.shape, entry.dtype, Device{});
    reader.tensor(entry.path, tensor, *stream);
    writer.tensor(entry.path, as_dtype(tensor, dtype));
  }
  for (const std::string& path : reader.texts(group)) writer.text(path, reader.text(path));
  for (const std::string& path : reader.attributed(group)) copy_attributes(reader, path, writer);
}

}  // namespace

fs::path default_export_path(const fs::path& checkpoint, std::optional<DType> dtype) {
  const std::string suffix = dtype ? fmt::format("-weights-{}.h5", to_string(*dtype)) : "-weights.h5";
  return checkpoint.parent_path() / (checkpoint.stem().string() + suffix);
}

ExportReport export_weights(const fs::path& from, const fs::path& to, std::optional<DType> dtype,
                            const CheckpointCheck& check) {
  HEADWAY_CHECK(!dtype || *dtype == DType::f32 || *dtype == DType::bf16, ConfigError,
                fmt::format("export: weights are stored as f32 or bf16, not as {}", to_string(*dtype)));
  ExportReport report;
  const std::unique_ptr<Hdf5Reader> opened = open_checkpoint(from, check);
  Hdf5Reader& reader = *opened;
  report.from = reader.source();
  report.to = to.empty() ? default_export_path(report.from, dtype) : to;
  std::error_code absent;
  HEADWAY_CHECK(
      !fs::equivalent(report.from, report.to, absent), ConfigError,
      fmt::format("export: {} is the checkpoint itself; give --out another name", report.to.string()));
  HEADWAY_CHECK(
      !fs::is_regular_file(report.to, absent) || is_hdf5(report.to), ConfigError,
      fmt::format("export: {} exists and is no HDF5 file; give --out another name", report.to.string()));
  const RunInfo info = read_run_info(reader);
  report.note = age_note(info, reader.source());
  uint64_t bytes = 0;
  for (const ArchiveEntry& entry : reader.entries("model")) {
    report.num_tensors += 1;
    report.num_values += entry.shape.numel();
    bytes += static_cast<uint64_t>(entry.shape.numel()) * size_of(dtype.value_or(entry.dtype));
  }
  HEADWAY_CHECK(report.num_tensors > 0, CheckpointError,
                fmt::format("{}: holds no weights", report.from.string()));
  const fs::path folder = report.to.has_parent_path() ? report.to.parent_path() : ".";
  require_free_space(folder, bytes, "the weights file " + report.to.filename().string());

  const std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  AtomicFile file(report.to);
  Hdf5Writer writer(file.temporary(), *stream, {.format = kWeightsFormat, .layout = Hdf5Layout::checksummed});
  write_run_info(writer, info);
  copy_group(reader, "model", dtype, writer);
  copy_group(reader, "tokenizer", std::nullopt, writer);
  writer.finish();
  file.commit();
  report.bytes = fs::file_size(report.to);
  return report;
}

}  // namespace headway
