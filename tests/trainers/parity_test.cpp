#include "trainers/parity.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "core/backend.h"
#include "core/io/hdf5_archive.h"
#include "tests/support/scratch_folder.h"

namespace headway {
namespace {

/// A softmax layer of one head whose four projections are the identity, over one token: y = x, so dx = dy,
/// and the gradients of the query and key weights are zero.
class ParityTest : public ::testing::Test {
 protected:
  using Numbers = std::map<std::string, std::vector<double>>;

  static Numbers gradients() {
    Numbers numbers{
        {"x", kGradient}, {"param/query.weight", {0, 0, 0, 0}}, {"param/key.weight", {0, 0, 0, 0}}};
    for (const double dy : kGradient)
      for (const double x : kInput)
        for (const char* weight : {"param/value.weight", "param/output.weight"})
          numbers[weight].push_back(dy * x);
    return numbers;
  }
  ParityCase run(const Numbers& recorded, DType dtype = DType::f64) {
    Hdf5Writer writer(folder_ / "case.h5", *stream_, {});
    const auto add = [&](const std::string& path, const std::vector<double>& values, const Shape& shape) {
      writer.tensor(path, Tensor::from<double>(values, shape, *stream_));
    };
    const auto add_name = [&](const char* name, std::string_view value) {
      writer.attribute("", name, value);
    };
    const auto add_number = [&](const char* name, int64_t value) { writer.attribute("", name, value); };
    add_name("kind", "softmax");
    add_name("config", R"({"num_heads": 1, "num_kv_heads": 1, "head_dim": 2, "rope": false})");
    add_number("model_dim", 2);
    add_number("num_layers", 1);
    add_number("layer_index", 0);
    add_number("training", 0);
    for (const char* weight : {"query", "key", "value", "output"})
      add(std::string("param/") + weight + ".weight", {1, 0, 0, 1}, {2, 2});
    add("input/x", kInput, {1, 1, 2});
    add("output/y", kInput, {1, 1, 2});
    add("grad_output/y", kGradient, {1, 1, 2});
    for (const auto& [name, values] : recorded)
      add("grad/" + name, values, name == "x" ? Shape{1, 1, 2} : Shape{2, 2});
    writer.finish();
    return run_parity(folder_ / "case.h5", {.dtype = dtype});
  }
  static double error_of(const ParityCase& result, const std::string& name) {
    const auto found = std::ranges::find(result.errors, name, &ParityError::name);
    return found == result.errors.end() ? -1 : found->error;
  }

  static inline const std::vector<double> kInput{0.3, -1.7}, kGradient{0.9, 0.4};
  ScratchFolder folder_;
  std::unique_ptr<Stream> stream_ = cpu_backend().make_stream();
};

TEST_F(ParityTest, ALayerThatDoesWhatIsRecordedHasNoError) {
  EXPECT_LE(run(gradients()).worst().error, 1e-14);
  EXPECT_LE(run(gradients(), DType::f32).worst().error, 1e-6);
}

TEST_F(ParityTest, AnErrorAgainstZerosIsMeasuredOnTheScaleOfTheOtherGradients) {
  Numbers recorded = gradients();
  recorded["param/value.weight"] = {0, 0, 0, 0};
  const double largest = 0.9 * 1.7;  // of the value weight's gradient, and of the output weight's
  EXPECT_NEAR(error_of(run(recorded), "grad value.weight"), 1, 1e-14);
  recorded["x"] = {100, 0};
  EXPECT_NEAR(error_of(run(recorded), "grad value.weight"), largest / 100, 1e-14);
}

TEST_F(ParityTest, RoundedInputsErrByAboutARounding) {
  run(gradients());
  const ParityCase rounded = run_parity(folder_ / "case.h5", {.inputs = DType::bf16});
  EXPECT_GE(error_of(rounded, "y"), 0x1p-12);
  EXPECT_LE(error_of(rounded, "y"), 0x1p-8);
}

}  // namespace
}  // namespace headway
