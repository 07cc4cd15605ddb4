// What is in a checkpoint or a weights file, for people: attributes, tensors, texts, and whether digests
// match.
#pragma once

#include <filesystem>
#include <string>

#include "trainers/checkpoint_folder.h"

namespace headway {

struct Inspection {
  std::string text;     // many lines
  std::string problem;  // one sentence why the file cannot be used by a run; empty when it can
};

/// Reads the whole file in a child process with limits on time and memory, so that it may come from anywhere.
/// Lists any HDF5 file whose types we know; CheckpointError when even that is refused. A folder stands for
/// its newest valid checkpoint. check: what an own file must pass beside its digests.
Inspection inspect_checkpoint(const std::filesystem::path&, const CheckpointCheck& check = {});

}  // namespace headway
