// A trained model from a checkpoint or weights file, with the recipe and tokenizer inside it.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/text/tokenizer.h"
#include "layers/model.h"
#include "trainers/data/data_digests.h"
#include "trainers/recipe.h"

namespace headway {

struct LoadedModel {
  std::string source;  // the file
  std::string note;    // what a user should know of it; empty where nothing
  int64_t step = 0;
  Recipe recipe;
  DataDigests trained_on;
  std::optional<double> val_loss;  // of a best checkpoint: what it was chosen by, over eval.tokens
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Model> model;
};

/// path: a checkpoint, a weights file, or a folder whose newest valid checkpoint is meant. Overrides change
/// the recipe's data, eval and generate sections. On a GPU the model computes in the run's train.dtype, as it
/// did in training, and on the CPU always in fp32. CheckpointError for what cannot be used.
LoadedModel load_model(const std::filesystem::path&, const std::vector<std::string>& overrides, Stream&);

}  // namespace headway
