// A checkpoint: everything a run needs to go on, in one HDF5 file that appears whole or not at all.
//
//   /                     attributes: format, format_version, program, created_utc, step, tokens, complete,
//                         content_xxh128 (core/io/hdf5_archive.h); of best.h5 also val_loss
//   /recipe               text: the resolved recipe
//   /trained_on           attributes: all, train, held_out (trainers/data/data_digests.h)
//   /env                  attributes: world_size, device, dtype, threads, deterministic, libraries
//   /model/<path>         and, below their own prefixes, what the other states write:
//   /optim/adamw/m/<path> /optim/adamw/v/<path>    /state    /data    /rng    /tokenizer
//
// Only rank 0 writes. A weights file is the same without /optim, /state, /data and /rng, perhaps in bf16.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/io/archive.h"
#include "core/io/hdf5_archive.h"
#include "layers/module.h"
#include "trainers/data/data_digests.h"
#include "trainers/recipe.h"

namespace headway {

/// A state and the group it writes: "model", "optim/adamw", "state", "data", "rng", "tokenizer". What it
/// saves must be complete (same names, shapes and dtypes) before load() is called: it is what the file is
/// compared with.
struct NamedState {
  std::string prefix;
  Stateful* state;
};

/// Where and how a run ran: recorded, never needed to go on.
struct Environment {
  int64_t world_size = 1;
  int64_t threads = 1;
  bool is_deterministic = true;
  std::string device = "cpu";
  std::string dtype = "fp32";
  std::string libraries;  // "Open MPI 4.1.4, OpenBLAS 0.3.21"
};

struct RunInfo {
  int64_t format_version = kFormatVersion;  // of the file it was read from
  int64_t step = 0;
  int64_t tokens = 0;
  std::string recipe;  // resolved, TOML
  Environment environment;
  DataDigests trained_on = {};
  std::optional<double> val_loss = {};  // by which a best checkpoint is the best, in nats per token
};

/// Upper bound on the bytes of the file that save_checkpoint would write.
uint64_t checkpoint_bytes(std::span<const NamedState>, const RunInfo&);

/// Checks free space, writes a temporary file, fsyncs, renames. On failure (IoError) no trace is left and a
/// file already at path is untouched. stream: the one on which the states' tensors were last written.
void save_checkpoint(const std::filesystem::path&, std::span<const NamedState>, const RunInfo&,
                     Stream& stream);

/// Compares all names, shapes and dtypes below the states' prefixes first: CheckpointError lists every
/// difference. Then loads; each dataset is checked against its digest. On an error states may be half loaded.
RunInfo load_checkpoint(const std::filesystem::path&, std::span<const NamedState>, Stream&);
/// The same from an open archive.
RunInfo load_checkpoint(ArchiveReader&, std::span<const NamedState>, Stream&);

/// The model alone, from a checkpoint or from a weights file; bf16 weights are widened to what the model
/// keeps.
RunInfo load_weights(const std::filesystem::path&, Stateful& model, Stream&);
/// The same from an open archive, which a running run may already have deleted.
RunInfo load_weights(ArchiveReader&, Stateful& model, Stream&);

/// Which weights of a file went into a model of perhaps another kind.
struct MatchingWeights {
  std::vector<std::string> loaded, missing, unused;  // paths below model/
};

/// Loads the parameters that the file has under the same paths, and no buffers. CheckpointError where one has
/// another shape, or none is found.
MatchingWeights load_matching_weights(ArchiveReader&, Module& model, Stream&);

/// What save_checkpoint was given. CheckpointError when a part is missing or out of range.
RunInfo read_run_info(ArchiveReader&);

/// What a user should know of a file in an older format; empty for the present one.
std::string age_note(const RunInfo&, const std::string& source);

/// Everything that loading would find wrong but the values of tensors, which verify() reads: ranges, recipe,
/// tokenizer, and names, shapes and dtypes of the parameters that the recipe's model has. Nothing of the
/// model's size is allocated. CheckpointError.
void check_loadable(ArchiveReader&);

/// CheckpointError where this build does not understand it.
Recipe stored_recipe(const RunInfo&, const std::string& source);

/// Root attributes, recipe and environment, as save_checkpoint writes them.
void write_run_info(ArchiveWriter&, const RunInfo&);

}  // namespace headway
