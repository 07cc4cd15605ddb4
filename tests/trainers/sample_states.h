// States whose values are a function of the step, so that a loaded checkpoint can be checked in full.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "core/backend.h"
#include "trainers/checkpoint.h"

namespace headway {

/// Tensors "<prefix>/<path>" of random values of one step, and one attribute.
class SampleState final : public Stateful {
 public:
  struct Entry {
    std::string path;
    Tensor value;
  };

  SampleState(std::vector<std::pair<std::string, Shape>> shapes, DType dtype, uint32_t seed) : seed_(seed) {
    for (auto& [path, shape] : shapes) entries.push_back({path, Tensor::empty(shape, dtype, Device{})});
    set_step(0);
  }

  void set_step(int64_t step) {
    step_ = step;
    uint32_t index = 0;
    for (Entry& entry : entries) {
      // One cheap multiplication a value: the tests that kill savers want them to save, not to compute.
      uint32_t state = seed_ * 1000 + static_cast<uint32_t>(step) * 100 + index++;
      const auto next = [&state] { return (state = state * 1664525u + 1013904223u) >> 8; };  // 24 bits
      if (entry.value.dtype() == DType::f32)
        for (int64_t i = 0; i < entry.value.numel(); ++i)
          entry.value.data<float>()[i] = static_cast<float>(next()) * 0x1p-23f - 1.0f;
      else
        for (size_t i = 0; i < entry.value.bytes(); ++i)
          static_cast<uint8_t*>(entry.value.raw())[i] = static_cast<uint8_t>(next());
    }
  }
  int64_t step() const { return step_; }

  /// Whether the tensors are those of the step that was loaded.
  bool is_consistent() const {
    SampleState expected = *this;
    for (Entry& entry : expected.entries)
      entry.value = Tensor::empty(entry.value.shape(), entry.value.dtype(), Device{});
    expected.set_step(step_);
    for (size_t i = 0; i < entries.size(); ++i)
      if (std::memcmp(entries[i].value.raw(), expected.entries[i].value.raw(), entries[i].value.bytes()) != 0)
        return false;
    return true;
  }

  void save(ArchiveWriter& writer, std::string_view prefix) const override {
    for (const Entry& entry : entries) writer.tensor(std::string(prefix) + "/" + entry.path, entry.value);
    writer.attribute(prefix, "sample_step", step_);
  }
  void load(ArchiveReader& reader, std::string_view prefix, Stream& stream) override {
    for (const Entry& entry : entries)
      reader.tensor(std::string(prefix) + "/" + entry.path, entry.value, stream);
    step_ = reader.integer(prefix, "sample_step");
  }

  std::vector<Entry> entries;

 private:
  uint32_t seed_;
  int64_t step_ = 0;
};

/// A model, its moments and a tokenizer file.
struct SampleRun {
  explicit SampleRun(int64_t width)
      : model(
            {{"embedding/weight", {64, width}}, {"blocks/0/norm", {width}}, {"blocks/0/mlp/up", {width, 3}}},
            DType::f32, 1),
        moments({{"m/embedding/weight", {64, width}}, {"v/embedding/weight", {64, width}}}, DType::f32, 2),
        tokenizer({{"merges", {77}}}, DType::u8, 3) {}

  void set_step(int64_t step) {
    for (SampleState* state : {&model, &moments, &tokenizer}) state->set_step(step);
    info.step = step;
    info.tokens = step * 512;
    info.recipe = "[model]\nstep = " + std::to_string(step) + "\n";
  }
  bool is_consistent(const RunInfo& loaded) const {
    for (const SampleState* state : {&model, &moments, &tokenizer})
      if (state->step() != loaded.step || !state->is_consistent()) return false;
    return loaded.tokens == loaded.step * 512 &&
           loaded.recipe == "[model]\nstep = " + std::to_string(loaded.step) + "\n";
  }
  std::vector<NamedState> states() {
    return {{"model", &model}, {"optim/adamw", &moments}, {"tokenizer", &tokenizer}};
  }

  SampleState model, moments, tokenizer;
  RunInfo info;
};

}  // namespace headway
