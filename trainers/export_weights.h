// Weights without the state of a run, for other programs and for eval and generate.
//
//   /           attributes as in a checkpoint, format = "headway-weights"
//   /recipe /tokenizer /env /trained_on   as in the checkpoint
//   /model/<path>             chunked with Fletcher32, so that tools without our digests notice damage
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "core/dtype.h"
#include "trainers/checkpoint_folder.h"

namespace headway {

struct ExportReport {
  std::filesystem::path from, to;
  int64_t num_tensors = 0;
  int64_t num_values = 0;
  uint64_t bytes = 0;  // of the file
  std::string note;    // what a user should know of the source; empty where nothing
};

/// "step-00001000-weights-bf16.h5" beside the checkpoint.
std::filesystem::path default_export_path(const std::filesystem::path& checkpoint, std::optional<DType>);

/// from: a checkpoint, a weights file, or a folder whose newest valid checkpoint is meant (its run may still
/// be running). to: empty for default_export_path; appears whole or not at all. dtype: f32 or bf16 for all
/// floating-point tensors of the model, rounded to nearest even; none keeps what is stored. ConfigError for
/// another dtype and where `to` is the checkpoint itself, CheckpointError for a bad checkpoint, IoError for a
/// failing disk. check: what the checkpoint must pass beside its digests.
ExportReport export_weights(const std::filesystem::path& from, const std::filesystem::path& to,
                            std::optional<DType> dtype, const CheckpointCheck& check = {});

}  // namespace headway
