// The folder of a run's checkpoints: step-00001000.h5, ..., a symbolic link `latest` to the one that was
// saved last, best.h5 where checkpoint.keep_best asks for it, and aside/ with those that resuming from an
// older checkpoint left behind.
//
// A run goes on from the newest file up to `latest` that loads; newer ones, which a kill between a save and
// the move of the link leaves, follow after those. Deleting happens only behind a save that every rank agreed
// on, and by renaming first, so that a half-deleted file is never a candidate.
#pragma once

#include <filesystem>
#include <functional>
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

/// Newest first. Empty when the folder is missing; CheckpointError when it cannot be read.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& folder);

/// The same in the order in which a run that goes on tries them.
std::vector<std::filesystem::path> resume_candidates(const std::filesystem::path& folder);

/// Whether a folder without a checkpoint has had some: `latest` points to one, or some were set aside (other
/// than for numbers that were not finite).
bool had_checkpoints(const std::filesystem::path& folder);

struct NewestValid {
  std::optional<std::filesystem::path> path;
  /// One sentence for each newer file that did not verify.
  std::vector<std::string> rejected;
};

/// Reads whole files in the order of resume_candidates() until one verifies.
NewestValid newest_valid_checkpoint(const std::filesystem::path& folder);

/// What must hold of a checkpoint beside its digests: check_loadable, or nothing. Throws CheckpointError.
using CheckpointCheck = std::function<void(ArchiveReader&)>;

/// Opens what a user names: a file, or a folder (of checkpoints, or of a run that may still be running) that
/// stands for the first of resume_candidates() that verifies and passes the check. What is open stays
/// readable when the run deletes it. CheckpointError when there is none, saying what was rejected and why.
std::unique_ptr<Hdf5Reader> open_checkpoint(const std::filesystem::path&, const CheckpointCheck& = {});

/// best.h5 of a folder of checkpoints or of a run. ConfigError for a file, CheckpointError where there is
/// none.
std::filesystem::path best_checkpoint(const std::filesystem::path& folder);

/// Moves checkpoints of a step above this one, the best one too, to aside/, where they get another name if
/// theirs is taken, and lets `latest` name the newest that stays. Returns their new paths. IoError where one
/// cannot be moved.
std::vector<std::filesystem::path> set_aside(const std::filesystem::path& folder, int64_t step);

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

/// What a run goes on from.
struct Resumption {
  std::filesystem::path path;
  RunInfo info;
  /// One sentence for each checkpoint that was tried before this one.
  std::vector<std::string> rejected;
};

/// The folder as all ranks of a run use it. Every function is collective, and an error is the same on all
/// ranks.
class CheckpointFolder {
 public:
  /// Why a run must not go on from a checkpoint, whose values may be read; empty where it may.
  using Objection = std::function<std::string(ArchiveReader&, const RunInfo&)>;

  /// Changes nothing on disk.
  CheckpointFolder(std::filesystem::path folder, const Retention&, Communicator&, Stream&);

  /// Loads the first of resume_candidates() that can be loaded; none where there are no checkpoints.
  /// CheckpointError where there are some and none loads, and where a readable one meets an objection.
  std::optional<Resumption> load_newest(std::span<const NamedState>, const Objection&);
  /// Every rank reads the file.
  RunInfo load(const std::filesystem::path&, std::span<const NamedState>, const Objection&);
  /// Whether a checkpoint lies in this folder and not in a subfolder or elsewhere.
  bool holds(const std::filesystem::path&);
  /// Makes the folder, removes leftovers and sets aside what a run that goes on from `step` leaves behind.
  /// Returns where those are now (rank 0 only).
  std::vector<std::filesystem::path> open(int64_t step);
  /// Rank 0 writes step-<info.step>.h5; once all agree that it is there, `latest` moves and old ones go.
  SaveReport save(std::span<const NamedState>, const RunInfo& info);
  /// The state whose next step is not finite: rank 0 writes aside/step-<info.step>-not-finite.h5, from which
  /// no run goes on unless its path is given. A checkpoint of the same state goes aside too, where there is
  /// one before it.
  SaveReport save_not_finite(std::span<const NamedState>, const RunInfo& info);
  /// Rank 0 writes best.h5, which only a better one replaces.
  SaveReport save_best(std::span<const NamedState>, const RunInfo& info);
  /// What best.h5 says of itself. None where there is no such file or a damaged one.
  std::optional<RunInfo> best();

  const std::filesystem::path& path() const { return folder_; }

 private:
  /// Rank 0 writes; all agree that the file is there.
  SaveReport write(const std::filesystem::path&, std::span<const NamedState>, const RunInfo& info);
  /// None, and `why`, where the objection is one.
  std::optional<RunInfo> try_to_load(const std::filesystem::path&, std::span<const NamedState>,
                                     const Objection&, std::string& why);

  std::filesystem::path folder_;
  Retention retention_;
  Communicator& comm_;
  Stream& stream_;
};

}  // namespace headway
