// Runs an attention layer on a golden case: recorded keys, parameters and inputs give the recorded outputs
// and gradients.
#pragma once

#include <hdf5.h>

#include <filesystem>
#include <map>

#include "autograd/loss_collector.h"
#include "core/comm/local.h"
#include "core/io/hdf5_archive.h"
#include "core/io/memory_archive.h"
#include "layers/attention/recurrent_state.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {

class GoldenTest : public LayerTest {
 protected:
  /// Every case of a kind in a folder, forward and backward. Errors are relative to the largest element of a
  /// tensor.
  void expect_cases(const std::filesystem::path& folder, const std::string& kind, DType dtype, double limit) {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      if (entry.path().filename().string().starts_with(kind + "-")) {
        SCOPED_TRACE(entry.path().filename().string());
        expect_case(entry.path(), dtype, limit);
        ++count;
      }
    EXPECT_GT(count, 0) << "no golden case of " << kind;
  }

 private:
  static std::string path_of(std::string name) {
    std::replace(name.begin(), name.end(), '.', '/');
    return name;
  }
  static std::vector<double> values(const Tensor& tensor, Stream& stream) {
    if (tensor.dtype() == DType::f64) return tensor.to_vector<double>(stream);
    const std::vector<float> narrow = tensor.to_vector<float>(stream);
    return {narrow.begin(), narrow.end()};
  }
  Tensor to_dtype(const Tensor& tensor, DType dtype) {
    if (dtype == DType::f64) return tensor;
    const std::vector<double> wide = tensor.to_vector<double>(*stream);
    return Tensor::from<float>(std::vector<float>(wide.begin(), wide.end()), tensor.shape(), *stream);
  }
  void expect_close(const std::string& name, const Tensor& actual, const Tensor& expected, double limit) {
    ASSERT_TRUE(actual.defined()) << name << " is missing";
    const std::vector<double> a = values(actual, *stream), e = values(expected, *stream);
    ASSERT_EQ(a.size(), e.size()) << name;
    double largest = 0, magnitude = 0;
    for (size_t i = 0; i < e.size(); ++i) {
      const double difference = std::abs(a[i] - e[i]);
      largest = difference <= largest ? largest : difference;
      magnitude = std::max(magnitude, std::abs(e[i]));
    }
    EXPECT_TRUE(largest <= limit * magnitude) << name << ": " << largest << " of " << magnitude;
  }

  /// h5py writes texts of variable length, which our archives do not have.
  static std::string text_attribute(const std::filesystem::path& file, const char* name) {
    const hid_t root = H5Fopen(file.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
    const hid_t attribute = H5Aopen(root, name, H5P_DEFAULT), type = H5Aget_type(attribute);
    char* text = nullptr;
    const bool read = attribute >= 0 && H5Tis_variable_str(type) > 0 && H5Aread(attribute, type, &text) >= 0;
    const std::string value = read ? text : "";
    H5free_memory(text);
    H5Tclose(type), H5Aclose(attribute), H5Fclose(root);
    if (!read) throw std::runtime_error(file.string() + " has no text attribute " + name);
    return value;
  }

  using Stored = std::map<std::string, Tensor>;
  struct Leaf {
    std::string name;
    Variable variable;
  };
  /// A stored tensor, or "name/i": part i of its first dimension.
  static Tensor piece(const Stored& stored, const std::string& name) {
    const auto whole = stored.find(name);
    if (whole != stored.end()) return whole->second;
    const size_t slash = name.rfind('/');
    const Tensor all = stored.at(name.substr(0, slash));
    const int64_t i = std::stoll(name.substr(slash + 1));
    const Shape& shape = all.shape();
    return all.slice(0, i, i + 1).reshape({shape[1], shape[2], shape[3]});
  }
  /// The state of a case that has one, with its parts among the leaves; null otherwise.
  std::unique_ptr<AttentionState> carried_state(AttentionLayer& layer, const Stored& stored, DType dtype,
                                                std::vector<Leaf>& leaves) {
    if (!stored.contains("input/state")) return nullptr;
    const Tensor& matrix = stored.at("input/state");
    auto state = layer.make_state(matrix.size(0), 0, dtype, Device{});
    auto& recurrent = static_cast<RecurrentState&>(*state);
    recurrent.matrix = leaves.emplace_back(Leaf{"state", Variable::leaf(to_dtype(matrix, dtype))}).variable;
    for (size_t i = 0; i < recurrent.convolutions.size() && stored.contains("input/conv_state"); ++i) {
      const std::string name = "conv_state/" + std::to_string(i);
      const Tensor rows = to_dtype(piece(stored, "input/" + name).clone(*stream), dtype);
      recurrent.convolutions[i].set_rows(leaves.emplace_back(Leaf{name, Variable::leaf(rows)}).variable);
    }
    return state;
  }
  static void add_outputs(const RecurrentState& state, const Stored& stored, std::vector<Leaf>& outputs) {
    outputs.push_back({"state", state.matrix});
    for (size_t i = 0; i < state.convolutions.size() && stored.contains("output/conv_state"); ++i)
      outputs.push_back({"conv_state/" + std::to_string(i), state.convolutions[i].rows()});
  }

  void expect_buffers_after_step(AttentionLayer& layer, const Stored& stored, double limit) {
    if (ctx.training) layer.after_step(ctx, *make_local_communicator());
    MemoryArchive archive(*stream);
    layer.save_buffers(archive, "");
    for (const ArchiveEntry& entry : archive.entries("")) {
      const Tensor buffer = Tensor::empty(entry.shape, entry.dtype, Device{});
      archive.tensor(entry.path, buffer, *stream);
      expect_close(entry.path, buffer, stored.at("output/buffer." + entry.path), limit);
    }
  }

  void expect_case(const std::filesystem::path& file, DType dtype, double limit) {
    const std::string kind = text_attribute(file, "kind"), keys = text_attribute(file, "config");
    Hdf5Reader reader(file, Hdf5Reader::Accept::any);
    std::map<std::string, Tensor> stored;
    for (const ArchiveEntry& entry : reader.entries("")) {
      const Tensor tensor = Tensor::empty(entry.shape, entry.dtype, Device{});
      reader.tensor(entry.path, tensor, *stream);
      stored[entry.path] = tensor;
    }
    const auto config = make_config(kind, nlohmann::json::parse(keys));
    const auto layer = find_attention(kind).make(*config, {.model_dim = reader.integer("", "model_dim"),
                                                           .num_layers = reader.integer("", "num_layers"),
                                                           .layer_index = reader.integer("", "layer_index"),
                                                           .init_std = 1,
                                                           .output_init_std = 1});
    layer->materialize(dtype, seed, *stream);
    int64_t num_set = 0;
    for (const auto& [name, tensor] : stored)
      if (name.starts_with("param/")) {
        set(*layer, path_of(name.substr(6)), tensor.to_vector<double>(*stream));
        num_set += tensor.numel();
      }
    ASSERT_EQ(num_set, num_parameters(*layer));
    MemoryArchive buffers(*stream);
    for (const auto& [name, tensor] : stored)
      if (name.starts_with("buffer/")) buffers.tensor(path_of(name.substr(7)), to_dtype(tensor, dtype));
    layer->load_buffers(buffers, "", *stream);

    ctx.recording = true;
    ctx.training = reader.integer("", "training") != 0;
    LossCollector auxiliary;
    ctx.auxiliary = &auxiliary;
    std::vector<Leaf> leaves{{"x", Variable::leaf(to_dtype(stored.at("input/x"), dtype))}};
    const auto state = carried_state(*layer, stored, dtype, leaves);
    const int64_t offset =
        reader.has_attribute("", "position_offset") ? reader.integer("", "position_offset") : 0;
    std::vector<Leaf> outputs{{"y", run(*layer, leaves[0].variable, state.get(), offset)}};
    if (state) add_outputs(*static_cast<RecurrentState*>(state.get()), stored, outputs);
    std::vector<Variable> roots;
    std::vector<Tensor> seeds;
    for (const auto& [name, variable] : outputs) {
      roots.push_back(variable);
      seeds.push_back(to_dtype(piece(stored, "grad_output/" + name), dtype));
      expect_close(name, variable.value(), piece(stored, "output/" + name), limit);
    }
    for (const AuxiliaryLoss& loss : auxiliary.losses()) {
      roots.push_back(loss.loss);
      const double weight = reader.number("", "aux_weight");
      seeds.push_back(to_dtype(Tensor::from<double>(std::vector<double>{weight}, {1}, *stream), dtype));
      expect_close(loss.name, loss.loss.value(), stored.at("output/" + loss.name), limit);
    }
    EXPECT_EQ(auxiliary.losses().size(), stored.count("output/balance_loss"));
    backward(ctx, roots, seeds, MicroStep::last);
    ctx.recording = false;
    for (const auto& [name, variable] : leaves)
      expect_close("grad " + name, variable.grad(), piece(stored, "grad/" + name), limit);
    expect_buffers_after_step(*layer, stored, limit);
    int64_t num_compared = 0;
    for (const auto& [name, tensor] : stored)
      if (name.starts_with("grad/param/")) {
        expect_close(name, parameter(*layer, path_of(name.substr(11))).gradient->grad, tensor, limit);
        num_compared += tensor.numel();
      }
    EXPECT_EQ(num_compared, num_set);
  }
};

}  // namespace headway::testing
