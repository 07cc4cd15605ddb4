// The folder of a run's checkpoints: step-00001000.h5, ..., and a symbolic link `latest` for people.
//
// Resuming never trusts names or links: it takes the newest file that verifies. Deleting happens only behind
// a save that every rank agreed on, and by renaming first, so that a half-deleted file is never a candidate.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/comm/communicator.h"
#include "core/io/hdf5_archive.h"
#include "trainers/checkpoint.h"

namespace headway {

/// What stays when a newer checkpoint is saved: the last keep_last (0: all of them), and every one whose step
/// is a multiple of keep_every (0: none for that reason).
struct Retention {
  int64_t keep_last = 0;
  int64_t keep_every = 0;
};

/// "step-00001000.h5"
std::string checkpoint_name(int64_t step);

/// Newest first. Empty when the folder is missing.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& folder);

struct NewestValid {
  std::optional<std::filesystem::path> path;
  /// One sentence for each newer file that did not verify.
  std::vector<std::string> rejected;
};

/// Reads whole files, newest first, until one verifies.
NewestValid newest_valid_checkpoint(const std::filesystem::path& folder);

/// Opens what a user names: a file, or a folder (of checkpoints, or of a run that may still be running) that
/// stands for its newest valid checkpoint. What is open stays readable when the run deletes it.
/// CheckpointError when there is none, saying what was rejected and why.
std::unique_ptr<Hdf5Reader> open_checkpoint(const std::filesystem::path&);

/// Deletes temporary files of dead processes and files whose deletion was interrupted; returns their names.
std::vector<std::string> remove_leftovers(const std::filesystem::path& folder);

/// Deletes what the retention does not keep, of the checkpoints up to current_step. (Later ones belong to a
/// history that was left behind by resuming earlier; they stay until they are overwritten.) Returns one
/// sentence for each file that could not be deleted.
std::vector<std::string> prune_checkpoints(const std::filesystem::path& folder, int64_t current_step,
                                           const Retention&);

struct SaveReport {
  std::filesystem::path path;
  double seconds = 0;
  uint64_t bytes = 0;
  /// Things that went wrong without harm to the checkpoint; rank 0 only.
  std::vector<std::string> warnings;
};

/// The folder as all ranks of a run use it. Every function is collective, and an error is the same on all
/// ranks.
class CheckpointFolder {
 public:
  /// Makes the folder and removes leftovers.
  CheckpointFolder(std::filesystem::path folder, const Retention&, Communicator&, Stream&);

  /// The same answer on every rank.
  NewestValid newest_valid();
  /// Rank 0 writes step-<info.step>.h5; once all agree that it is there, `latest` moves and old ones go.
  SaveReport save(std::span<const NamedState>, const RunInfo& info);
  /// Every rank reads the file.
  RunInfo load(const std::filesystem::path&, std::span<const NamedState>);

  const std::filesystem::path& path() const { return folder_; }

 private:
  std::filesystem::path folder_;
  Retention retention_;
  Communicator& comm_;
  Stream& stream_;
};

}  // namespace headway
