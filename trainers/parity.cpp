#include "trainers/parity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "autograd/engine.h"
#include "autograd/loss_collector.h"
#include "core/backend.h"
#include "core/comm/local.h"
#include "core/io/hdf5_archive.h"
#include "core/io/limited_child.h"
#include "core/io/memory_archive.h"
#include "core/max_or_nan.h"
#include "layers/attention/attention_layer.h"
#include "layers/attention/recurrent_state.h"
#include "trainers/config/field_reader.h"
#include "trainers/config/parse_json.h"
#include "trainers/states.h"

namespace headway {
namespace {

constexpr uint64_t kAnySeed = 1;  // every parameter is set from the case
// Far above any case; tables of positions and the layers' own constants must fit memory.
constexpr int64_t kLargestDim = 1 << 20, kMostLayers = 1 << 16;

/// Numbers as a tensor of that dtype in the stream's memory.
Tensor rounded(const std::vector<double>& values, const Shape& shape, DType dtype, Stream& stream) {
  Tensor tensor;
  dispatch<double, float, bf16>(dtype, "parity", [&]<class T>() {
    std::vector<T> numbers;
    for (const double x : values) numbers.push_back(T(static_cast<Acc<T>>(x)));
    tensor = Tensor::from<T>(numbers, shape, stream);
  });
  return tensor;
}

/// "query.weight" of a case is the parameter query/weight.
std::string parameter_path(std::string name) {
  std::ranges::replace(name, '.', '/');
  return name;
}

class Runner {
 public:
  Runner(ArchiveReader& reader, const ParityRun& run)
      : reader_(reader),
        dtype_(run.dtype),
        stream_(backend(run.device).make_stream()),
        host_(cpu_backend().make_stream()) {
    for (const ArchiveEntry& entry : reader_.entries("")) {
      const Tensor tensor = Tensor::empty(entry.shape, entry.dtype, Device{});
      reader_.tensor(entry.path, tensor, *host_);
      stored_[entry.path] =
          is_read_by_the_layer(entry.path)
              ? rounded(
                    to_doubles(rounded(to_doubles(tensor, *host_), entry.shape, run.inputs, *host_), *host_),
                    entry.shape, DType::f64, *host_)
              : tensor;
    }
    result_.kind = reader_.string("", "kind");
    if (reader_.has_attribute("", "selection_margin"))
      result_.selection_margin = reader_.number("", "selection_margin");
    make_layer();
  }

  ParityCase run() {
    LossCollector auxiliary;
    Rng rng(kAnySeed);
    Context ctx{.stream = *stream_,
                .rng = rng,
                .training = integer_in_range(reader_, "", "training", 0, 1) != 0,
                .recording = true,
                .auxiliary = &auxiliary};
    std::vector<Named> leaves{{"x", Variable::leaf(own(stored("input/x")))}};
    const auto state = carried_state(leaves);
    const Variable& x = leaves[0].variable;
    if (x.value().rank() != 3)
      refuse(fmt::format("input/x is {}, expected [B, T, D]", x.value().shape().to_string()));
    const int64_t offset = reader_.has_attribute("", "position_offset")
                               ? integer_in_range(reader_, "", "position_offset", 0, kLargestDim)
                               : 0;
    std::vector<Named> outputs{
        {"y", layer_->forward(ctx, x, {.offset = offset, .count = x.size(1), .tables = &rope_tables_},
                              state.get())}};
    if (state) add_state(static_cast<const RecurrentState&>(*state), outputs);

    std::vector<Variable> roots;
    std::vector<Tensor> seeds;
    for (const auto& [name, variable] : outputs) {
      roots.push_back(variable);
      seeds.push_back(own(stored("grad_output/" + name), variable.value().dtype()));
      compare(name, variable.value(), "output/" + name);
    }
    for (const AuxiliaryLoss& loss : auxiliary.losses()) {
      roots.push_back(loss.loss);
      seeds.push_back(rounded({reader_.number("", "aux_weight")}, {1}, loss.loss.value().dtype(), *stream_));
      compare(loss.name, loss.loss.value(), "output/" + loss.name);
    }
    backward(ctx, roots, seeds, MicroStep::last);
    for (const auto& [name, variable] : leaves) compare("grad " + name, variable.grad(), "grad/" + name);
    for (const auto& [name, parameter] : parameters_)
      compare("grad " + name, parameter->gradient->written ? parameter->gradient->grad : Tensor(),
              "grad/param/" + name);
    compare_buffers(ctx, x.size(0) * x.size(1));
    add_errors();
    return result_;
  }

 private:
  struct Named {
    std::string name;
    Variable variable;
  };

  /// One output or gradient beside what was recorded of it.
  struct Compared {
    std::string name;
    double largest_difference, largest_recorded;
    bool is_gradient;
  };

  static bool is_read_by_the_layer(const std::string& path) {
    return path.starts_with("input/") || path.starts_with("param/") || path.starts_with("grad_output/");
  }
  [[noreturn]] void refuse(const std::string& why) const {
    throw CheckpointError(fmt::format("{}: {}", reader_.source(), why));
  }
  /// A recorded tensor, or "name/i": part i of its first dimension.
  Tensor stored(const std::string& path) const {
    const auto whole = stored_.find(path);
    if (whole != stored_.end()) return whole->second;
    const size_t slash = path.rfind('/');
    const auto parts = stored_.find(path.substr(0, slash));
    const bool is_part =
        parts != stored_.end() && path.find_first_not_of("0123456789", slash + 1) == std::string::npos;
    if (!is_part) refuse(path + " is missing");
    const int64_t i = std::stoll(path.substr(slash + 1));
    const Shape& shape = parts->second.shape();
    return parts->second.slice(0, i, i + 1).reshape({shape[1], shape[2], shape[3]}).clone(*host_);
  }
  /// A recorded tensor as the layer takes it.
  Tensor own(const Tensor& tensor, DType dtype) const {
    return rounded(to_doubles(tensor, *host_), tensor.shape(), dtype, *stream_);
  }
  Tensor own(const Tensor& tensor) const { return own(tensor, dtype_); }

  void make_layer() {
    const AttentionVariant& variant = find_attention(result_.kind);
    const auto config = variant.make_config();
    const auto keys = parse_json<nlohmann::json>(reader_.string("", "config"));
    if (!keys.is_object()) refuse("its config is no JSON object");
    const Settings settings = settings_from_json(keys, reader_.source());
    FieldReader fields(settings);
    config->describe(fields);
    fields.check_all_used();
    const int64_t num_layers = integer_in_range(reader_, "", "num_layers", 1, kMostLayers);
    layer_ =
        variant.make(*config, {.model_dim = integer_in_range(reader_, "", "model_dim", 1, kLargestDim),
                               .num_layers = num_layers,
                               .layer_index = integer_in_range(reader_, "", "layer_index", 0, num_layers - 1),
                               .init_std = 1,
                               .output_init_std = 1});

    // Compared before the layer takes memory.
    std::map<std::string, Parameter*> by_path;
    layer_->visit("", [&](const std::string& path, Parameter& parameter) { by_path[path] = &parameter; });
    MemoryArchive buffers(*stream_);
    for (const auto& [path, tensor] : stored_) {
      if (path.starts_with("buffer/")) buffers.tensor(path.substr(7), own(tensor, accumulator_of(dtype_)));
      if (!path.starts_with("param/")) continue;
      const std::string name = path.substr(6);
      const auto found = by_path.find(parameter_path(name));
      if (found == by_path.end()) refuse(fmt::format("{} has no parameter {}", result_.kind, name));
      if (found->second->shape != tensor.shape())
        refuse(fmt::format("parameter {} is {} where {} has {}", name, tensor.shape().to_string(),
                           result_.kind, found->second->shape.to_string()));
      parameters_.emplace_back(name, found->second);
      by_path.erase(found);
    }
    if (!by_path.empty()) refuse(fmt::format("parameter {} is missing", by_path.begin()->first));
    layer_->materialize(dtype_, kAnySeed, *stream_);
    for (const auto& [name, parameter] : parameters_)
      parameter->value.copy_from(own(stored("param/" + name), parameter->value.dtype()), *stream_);
    layer_->round_weights(*stream_);
    layer_->load_buffers(buffers, "", *stream_);
  }

  /// The state of a case that has one, with its parts among the leaves; null otherwise.
  std::unique_ptr<AttentionState> carried_state(std::vector<Named>& leaves) const {
    if (!stored_.contains("input/state")) return nullptr;
    auto state = layer_->make_state(stored("input/state").size(0), 0, dtype_, stream_->device());
    auto* const recurrent = dynamic_cast<RecurrentState*>(state.get());
    if (!recurrent) refuse(fmt::format("it has a state, but {} carries none", result_.kind));
    recurrent->matrix =
        leaves
            .emplace_back(Named{"state", Variable::leaf(own(stored("input/state"), accumulator_of(dtype_)))})
            .variable;
    for (size_t i = 0; i < recurrent->convolutions.size() && stored_.contains("input/conv_state"); ++i) {
      const std::string name = fmt::format("conv_state/{}", i);
      recurrent->convolutions[i].set_rows(
          leaves.emplace_back(Named{name, Variable::leaf(own(stored("input/" + name)))}).variable);
    }
    return state;
  }
  void add_state(const RecurrentState& state, std::vector<Named>& outputs) const {
    outputs.push_back({"state", state.matrix});
    for (size_t i = 0; i < state.convolutions.size() && stored_.contains("output/conv_state"); ++i)
      outputs.push_back({fmt::format("conv_state/{}", i), state.convolutions[i].rows()});
  }

  void compare_buffers(Context& ctx, int64_t num_positions) {
    if (ctx.training) layer_->after_step(ctx, *make_local_communicator(), {.num_positions = num_positions});
    MemoryArchive archive(*stream_);
    layer_->save_buffers(archive, "");
    for (const ArchiveEntry& entry : archive.entries("")) {
      const Tensor buffer = Tensor::empty(entry.shape, entry.dtype, stream_->device());
      archive.tensor(entry.path, buffer, *stream_);
      compare(entry.path, buffer, "output/buffer." + entry.path);
    }
  }

  void compare(const std::string& name, const Tensor& actual, const std::string& path) {
    const std::vector<double> expected = to_doubles(stored(path), *host_);
    // A parameter that the output does not depend on has no gradient of ours, and zeros in the case.
    const std::vector<double> values =
        actual ? to_doubles(actual, *stream_) : std::vector<double>(expected.size(), 0.0);
    if (values.size() != expected.size())
      refuse(fmt::format("{} has {} values where the layer gives {}", path, expected.size(), values.size()));
    double largest = 0, magnitude = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      largest = max_or_nan(largest, std::abs(values[i] - expected[i]));
      magnitude = std::max(magnitude, std::abs(expected[i]));
    }
    compared_.push_back({name, largest, magnitude, path.starts_with("grad/")});
  }
  /// A tensor that is zero by construction (a softmax of one key has no gradient in its scores) has no scale
  /// of its own: its error is measured on that of the other gradients, or of the other outputs.
  void add_errors() {
    double scale[2] = {0, 0};
    for (const Compared& c : compared_)
      scale[c.is_gradient] = std::max(scale[c.is_gradient], c.largest_recorded);
    for (const Compared& c : compared_) {
      const double own_scale = c.largest_recorded > 0 ? c.largest_recorded : scale[c.is_gradient];
      result_.errors.push_back({c.name, c.largest_difference / (own_scale > 0 ? own_scale : 1)});
    }
  }

  ArchiveReader& reader_;
  DType dtype_;
  std::unique_ptr<Stream> stream_, host_;  // of the layer, and of what is recorded
  std::map<std::string, Tensor> stored_;
  std::unique_ptr<AttentionLayer> layer_;
  std::vector<std::pair<std::string, Parameter*>> parameters_;  // by their names in the case
  RopeTables rope_tables_;
  std::vector<Compared> compared_;
  ParityCase result_;
};

}  // namespace

const ParityError& ParityCase::worst() const {
  return *std::ranges::max_element(errors, [](const ParityError& a, const ParityError& b) {
    return std::isnan(b.error) || a.error < b.error;
  });
}

ParityCase run_parity(ArchiveReader& reader, const ParityRun& run) {
  try {
    return Runner(reader, run).run();
  } catch (const ShapeError& error) {  // what does not fit together is the case's own
    throw CheckpointError(
        fmt::format("{}: its tensors do not fit the layer: {}", reader.source(), error.what()));
  }
}

ParityCase run_parity(const std::filesystem::path& file, const ParityRun& run) {
  // Cases come from other programs and have no checksums: a child meets what HDF5 makes of a damaged one.
  std::error_code absent;
  const uintmax_t bytes = std::filesystem::file_size(file, absent);
  read_in_limited_child(file, absent ? 0 : bytes, [&] {
    Hdf5Reader(file, Hdf5Reader::Accept::any).verify();
    return std::string();
  });
  Hdf5Reader reader(file, Hdf5Reader::Accept::any);
  return run_parity(reader, run);
}

}  // namespace headway
