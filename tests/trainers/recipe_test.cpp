// Recipes: where values come from, what is refused and in which words, and that what is printed reads back.
#include "trainers/recipe.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/scratch_folder.h"
#include "tests/trainers/config_error.h"
#include "trainers/config/field_reader.h"
#include "trainers/config/field_writer.h"

namespace headway {
namespace {

constexpr const char* kSmall = "[data]\ntext = [\"*.txt\"]\n[train]\nmax_steps = 100\n";

Recipe parse(const std::string& toml, const std::vector<std::string>& overrides = {}) {
  return parse_recipe(toml, "r.toml", overrides);
}

std::string error_of(const std::string& toml, const std::vector<std::string>& overrides = {}) {
  return config_error([&] { parse(toml, overrides); });
}

/// The error of one override over a good recipe.
std::string error_of_override(const std::string& argument) { return error_of(kSmall, {argument}); }

Describe fields_of(Recipe& recipe) {
  return [&recipe](FieldVisitor& v) { recipe.describe(v); };
}

TEST(Recipe, DefaultsAreBelowTheFileAndTheFileBelowTheCommandLine) {
  const Recipe recipe = parse("[optim]\nlr = 0.5\neps = 0.25\n" + std::string(kSmall), {"optim.lr=0.125"});
  EXPECT_EQ(recipe.optim.lr, 0.125);
  EXPECT_EQ(recipe.optim.eps, 0.25);
  EXPECT_EQ(recipe.optim.weight_decay, OptimRecipe().weight_decay);
  EXPECT_EQ(recipe.origins.at("optim.lr"), "command line");
  EXPECT_EQ(recipe.origins.at("optim.eps"), "r.toml:3:1");
  EXPECT_EQ(recipe.origins.at("optim.weight_decay"), "default");
}

TEST(Recipe, OverridesTakeTheTypeOfTheirField) {
  const Recipe recipe = parse(kSmall, {"run.name=1234", "train.recompute=true", "train.batch_tokens=0.5M",
                                       "optim.betas=[0.8, 1_0e-2]", "data.text=[a/*.txt, b c]",
                                       "schedule.kind=wsd", "run.seed=1_000", "checkpoint.every_seconds=5"});
  EXPECT_EQ(recipe.run.name, "1234");
  EXPECT_TRUE(recipe.train.recompute);
  EXPECT_EQ(recipe.train.batch_tokens, 500'000);
  EXPECT_EQ(recipe.optim.betas, (std::vector<double>{0.8, 0.1}));
  EXPECT_EQ(recipe.data.text, (std::vector<std::string>{"a/*.txt", "b c"}));
  EXPECT_EQ(recipe.schedule.kind, "wsd");
  EXPECT_EQ(recipe.run.seed, 1000);
  EXPECT_EQ(recipe.checkpoint.every_seconds, 5);
}

TEST(Recipe, OneTextMayStandForAListOnTheCommandLine) {
  EXPECT_EQ(parse(kSmall, {"data.text=a.txt"}).data.text, std::vector<std::string>{"a.txt"});
  EXPECT_EQ(error_of("[data]\ntext = \"a.txt\"\n"),
            "r.toml:2:1: data.text = \"a.txt\": expected a list of a text in quotes");
}

TEST(Recipe, AnUnknownKeyNamesFileLineAndTheNearestKey) {
  EXPECT_EQ(error_of(std::string(kSmall) + "micro_batches = 3\n"),
            "r.toml:5:1: unknown key train.micro_batches = 3: did you mean train.micro_batch?");
  EXPECT_EQ(error_of_override("trian.max_steps=3"),
            "command line: unknown key trian.max_steps = 3: did you mean train.max_steps?");
  EXPECT_EQ(error_of_override("optim.seq_len=3"),
            "command line: unknown key optim.seq_len = 3: did you mean data.seq_len?");
  EXPECT_EQ(
      error_of_override("every_steps=3"),
      "command line: unknown key every_steps = 3: did you mean checkpoint.every_steps or eval.every_steps or "
      "log.every_steps?");
  EXPECT_EQ(error_of_override("quantum.flux=3"),
            "command line: unknown key quantum.flux = 3: `headway train --help-recipe` lists all keys");
  for (const char* far_off : {"model2.x", "foo.bar", "generate.x", "zz"})
    EXPECT_EQ(error_of_override(std::string(far_off) + "=3"),
              fmt::format("command line: unknown key {} = 3: `headway train --help-recipe` lists all keys",
                          far_off));
  EXPECT_EQ(error_of("train = 3\n[data]\ntext = [\"a\"]\n"),
            "r.toml:1:1: unknown key train = 3: train is a section: set train.batch_tokens");
}

TEST(Recipe, NamesOfOtherFrameworksAreExplainedAndNotAccepted) {
  EXPECT_EQ(error_of_override("optim.learning_rate=0.1"),
            "command line: unknown key optim.learning_rate = 0.1: `learning_rate` is optim.lr here");
  EXPECT_EQ(
      error_of_override("schedule.min_lr=1e-5"),
      "command line: unknown key schedule.min_lr = 1e-5: `min_lr` is schedule.min_lr_ratio, a share of the "
      "peak rate and not a rate here");
  EXPECT_EQ(
      error_of_override("train.gradient_accumulation_steps=4"),
      "command line: unknown key train.gradient_accumulation_steps = 4: `gradient_accumulation_steps` is "
      "derived from train.batch_tokens and train.micro_batch here");
  EXPECT_EQ(error_of_override("model.n_layer=4"),
            "command line: unknown key model.n_layer = 4: `n_layer` is model.num_layers here");
}

TEST(Recipe, AWrongTypeIsRefused) {
  EXPECT_EQ(error_of("[model]\nnum_layers = \"four\"\n"),
            "r.toml:2:1: model.num_layers = \"four\": expected an integer from 1 to 1000");
  EXPECT_EQ(error_of("[model]\nnum_layers = 4.0\n"),
            "r.toml:2:1: model.num_layers = 4: expected an integer from 1 to 1000");
  EXPECT_EQ(error_of("[optim]\nlr = true\n"), "r.toml:2:1: optim.lr = true: expected a number from 0 to 10");
  EXPECT_EQ(error_of("[train]\nrecompute = 1\n"), "r.toml:2:1: train.recompute = 1: expected true or false");
  EXPECT_EQ(error_of("[run]\nname = 3\n"), "r.toml:2:1: run.name = 3: expected a text in quotes");
  EXPECT_EQ(error_of("[optim]\nbetas = [0.9, \"x\"]\n"),
            "r.toml:2:1: optim.betas = [0.9, \"x\"]: expected a list of a number from 0 to 0.999999");
  EXPECT_EQ(error_of("[train]\nbatch_tokens = \"much\"\n"),
            "r.toml:2:1: train.batch_tokens = \"much\": expected an integer from 1 to 1000000000000000, as "
            "in 4096, "
            "32K or 1.5M");
  EXPECT_EQ(error_of_override("optim.lr=fast"),
            "command line: optim.lr = fast: expected a number from 0 to 10");
  EXPECT_EQ(error_of_override("optim.lr=[1]"),
            "command line: optim.lr = [1]: expected a number from 0 to 10");
  EXPECT_EQ(error_of_override("model.num_layers=2K"),
            "command line: model.num_layers = 2K: expected an integer from 1 to 1000");
}

TEST(Recipe, AValueOutOfRangeOrChoiceIsRefused) {
  EXPECT_EQ(error_of("[optim]\nlr = -1\n"), "r.toml:2:1: optim.lr = -1: expected a number from 0 to 10");
  EXPECT_EQ(error_of("[optim]\nlr = inf\n"), "r.toml:2:1: optim.lr = inf: expected a number from 0 to 10");
  EXPECT_EQ(error_of("[optim]\nlr = nan\n"), "r.toml:2:1: optim.lr = nan: expected a number from 0 to 10");
  EXPECT_EQ(error_of("[optim]\nbetas = [0.9, 1.0]\n"),
            "r.toml:2:1: optim.betas = [0.9, 1]: expected a list of a number from 0 to 0.999999");
  EXPECT_EQ(
      error_of("[schedule]\nkind = \"cosin\"\n"),
      "r.toml:2:1: schedule.kind = \"cosin\": expected one of \"cosine\", \"wsd\", \"linear\", \"constant\"");
}

TEST(Recipe, KeysThatContradictEachOtherAreRefusedWithTheirPlace) {
  EXPECT_EQ(error_of("[train]\nmax_steps = 1\n"),
            "data.text is empty: expected the files to train on, or token shards in data.tokens");
  EXPECT_EQ(error_of_override("data.tokens=[a.bin]"),
            "command line: data.tokens and data.text are both set: expected one of them");
  EXPECT_EQ(error_of_override("train.max_tokens=1M"),
            "command line: train.max_tokens = 1000000 and train.max_steps = 100 are both set: expected one "
            "of them");
  EXPECT_EQ(error_of_override("train.max_steps=0"),
            "command line: train.max_steps = 0: expected a length of the run, here or in train.max_tokens");
  EXPECT_EQ(error_of(kSmall, {"train.max_steps=0", "train.max_tokens=1K"}),
            "command line: train.max_tokens = 1000: expected at least one batch, train.batch_tokens = 8192");
  EXPECT_EQ(error_of_override("schedule.warmup_steps=100"),
            "command line: schedule.warmup_steps = 100: expected fewer than the run's 100 steps");
  EXPECT_EQ(error_of(std::string(kSmall) + "stop_step = 101\n"),
            "r.toml:5:1: train.stop_step = 101: expected at most the run's 100 steps");
  EXPECT_EQ(error_of_override("optim.betas=[0.9]"),
            "command line: optim.betas = [0.9]: expected two numbers");
  EXPECT_EQ(error_of_override("run.name=a/b"),
            "command line: run.name = \"a/b\": expected the name of a folder, without slashes");
}

TEST(Recipe, LayersOfAHybridInheritTheHeads) {
  const std::string hybrid =
      "[model]\nnum_layers = 5\nmodel_dim = 64\n[model.attention]\nkind = \"lightning\"\nnum_heads = 2\n"
      "layers = [\"lightning\", \"far\", \"moh\"]\n"
      "[model.attention.far]\nkind = \"softmax\"\nrope_theta = 500000\n"
      "[model.attention.moh]\nnum_heads = 4\n";
  Recipe recipe = parse(kSmall + hybrid);
  recipe.resolve(257);
  const LayerAttention& attention = recipe.model.attention;
  EXPECT_EQ(attention.summary(5), "2 of lightning and 2 of far and 1 of moh");
  EXPECT_EQ(attention.of_layer(3).kind, "lightning");
  EXPECT_FALSE(attention.of_layer(3).rope);
  EXPECT_EQ(attention.of_layer(4).kind, "softmax");
  EXPECT_TRUE(attention.of_layer(4).rope);
  EXPECT_EQ(attention.of_layer(4).rope_theta, 500000);
  EXPECT_EQ(attention.of_layer(4).num_heads, 2);
  EXPECT_EQ(attention.of_layer(4).head_dim, 32);
  EXPECT_EQ(attention.of_layer(2).num_heads, 4);
  EXPECT_EQ(attention.of_layer(2).head_dim, 16);
  Recipe again = parse(recipe.to_toml());
  again.resolve(257);
  EXPECT_EQ(differences(fields_of(recipe), fields_of(again)), "");
}

TEST(Recipe, LayersOfAHybridThatDoNotExistAreRefused) {
  EXPECT_EQ(error_of_override("model.attention.layers=[softmax, lightnin]"),
            "model.attention.layers names \"lightnin\": expected an attention kind, or a table "
            "of that name with a kind");
  EXPECT_EQ(error_of_override("model.attention.moh.top_k=3"),
            "command line: unknown key model.attention.moh.top_k = 3: neither model.attention.layers nor the "
            "members of kind parallel name \"moh\"");
}

// The resolved recipe of such a run, and so its checkpoints, could not be read.
TEST(Recipe, NamesThatNoTableCanHaveAreRefusedForLayersAndMembers) {
  const std::string small = kSmall;
  EXPECT_EQ(error_of(small, {"model.attention.layers=[rope, softmax]", "model.attention.rope.kind=gated"}),
            "model.attention.rope is a key and cannot be a table too: expected another name");
  EXPECT_EQ(error_of(small, {"model.attention.kind=parallel", "model.attention.members=[norm_eps, lightning]",
                             "model.attention.norm_eps.kind=softmax"}),
            "model.attention.norm_eps is a key and cannot be a table too: expected another name");
  EXPECT_EQ(error_of(small, {"model.attention.layers=[\"a b\", softmax]"}),
            "model.attention.layers names \"a b\": expected letters, digits, _ and - alone");
}

TEST(Recipe, LayersMayConsistOfNamedSettingsAlone) {
  const std::string named =
      "[model]\nnum_layers = 3\nmodel_dim = 64\n[model.attention]\nnum_heads = 4\nhead_dim = 8\n"
      "layers = [\"near\", \"far\"]\n"
      "[model.attention.near]\nkind = \"softmax\"\nwindow = 16\n"
      "[model.attention.far]\nkind = \"lightning\"\nnum_heads = 2\n";
  Recipe recipe = parse(kSmall + named);
  recipe.resolve(257);
  const LayerAttention& attention = recipe.model.attention;
  EXPECT_EQ(attention.summary(3), "2 of near and 1 of far");
  EXPECT_EQ(attention.of_layer(2).kind, "softmax");
  EXPECT_EQ(attention.of_layer(2).window, 16);
  EXPECT_EQ(attention.of_layer(2).num_heads, 4);
  EXPECT_EQ(attention.of_layer(1).kind, "lightning");
  EXPECT_EQ(attention.of_layer(1).num_heads, 2);
  EXPECT_EQ(attention.of_layer(1).head_dim, 8);
  Recipe again = parse(recipe.to_toml());
  again.resolve(257);
  EXPECT_EQ(differences(fields_of(recipe), fields_of(again)), "");
}

TEST(Recipe, KeysOfNoLayerAreRefused) {
  const std::string named =
      "[model.attention]\nlayers = [\"near\"]\n[model.attention.near]\nkind = \"softmax\"\n";
  const auto error_with = [&](const std::string& override) {
    return config_error([&] { parse(kSmall + named, {override}).resolve(257); });
  };
  EXPECT_EQ(error_with("model.attention.window=8"),
            "command line: unknown key model.attention.window = 8: no layer of model.attention.layers is of "
            "model.attention.kind; a layer's keys stand in the table of its name");
  EXPECT_EQ(
      error_with("model.attention.kind=moh"),
      "command line: model.attention.kind = \"moh\" is the kind of no layer of model.attention.layers = "
      "[near]: expected one of theirs, or none");
  EXPECT_EQ(error_with("model.attention.kind=softmax"), "no error");
}

TEST(Recipe, AccumulationIsDerivedFromTheBatchInTokens) {
  const Recipe recipe = parse(kSmall, {"train.batch_tokens=8192", "train.micro_batch=4", "data.seq_len=256"});
  EXPECT_EQ(recipe.accumulation_steps(1), 8);
  EXPECT_EQ(recipe.accumulation_steps(2), 4);
  EXPECT_EQ(recipe.accumulation_steps(8), 1);
  EXPECT_EQ(
      config_error([&] { recipe.accumulation_steps(3); }),
      "command line: train.batch_tokens = 8192: expected a multiple of 3 ranks x train.micro_batch = 4 x "
      "data.seq_len = 256, such as 6144 or 9216");
  EXPECT_EQ(
      config_error([&] { recipe.accumulation_steps(16); }),
      "command line: train.batch_tokens = 8192: expected a multiple of 16 ranks x train.micro_batch = 4 x "
      "data.seq_len = 256, such as 16384");
}

TEST(Recipe, RanksThatShareSequencesCountAsOne) {
  const Recipe recipe = parse(kSmall, {"train.batch_tokens=8192", "train.micro_batch=4", "data.seq_len=256",
                                       "train.context_parallel=4"});
  EXPECT_EQ(recipe.accumulation_steps(4), 8);
  EXPECT_EQ(recipe.accumulation_steps(8), 4);
  EXPECT_EQ(
      config_error([&] { recipe.accumulation_steps(6); }),
      "command line: train.context_parallel = 4: expected a divisor of the number of ranks, which is 6");
  EXPECT_EQ(
      config_error([&] { recipe.accumulation_steps(12); }),
      "command line: train.batch_tokens = 8192: expected a multiple of 3 groups of train.context_parallel "
      "ranks x train.micro_batch = 4 x data.seq_len = 256, such as 6144 or 9216");
  EXPECT_EQ(
      config_error([] {
        parse(kSmall, {"data.seq_len=256", "train.context_parallel=3"});
      }),
      "command line: train.context_parallel = 3: expected data.seq_len = 256 to be a multiple of 6, two "
      "segments for each rank, such as 258");
}

TEST(Recipe, TheLengthMayBeGivenInTokens) {
  EXPECT_EQ(
      parse(kSmall, {"train.max_steps=0", "train.max_tokens=1M", "train.batch_tokens=8192"}).total_steps(),
      122);
}

TEST(Recipe, ResolvingFillsInWhatIsDerivedAndSaysSo) {
  Recipe recipe = parse(kSmall, {"model.model_dim=96", "model.attention.num_heads=3"});
  recipe.resolve(257);
  EXPECT_EQ(recipe.model.vocab_size, 320);
  EXPECT_EQ(recipe.model.mlp_dim, 256);
  EXPECT_EQ(recipe.model.attention->head_dim, 32);
  EXPECT_EQ(recipe.origins.at("model.vocab_size"), "derived");
  EXPECT_EQ(recipe.origins.at("model.attention.head_dim"), "derived");
  EXPECT_EQ(recipe.origins.at("model.num_layers"), "default");
  Recipe bad = parse(kSmall, {"model.attention.num_heads=6", "model.attention.num_kv_heads=4"});
  EXPECT_EQ(config_error([&] { bad.resolve(257); }),
            "command line: model.attention.num_kv_heads = 4 does not divide num_heads = 6");
}

TEST(Recipe, ThePrintedRecipeReadsBackEqual) {
  Recipe recipe = parse(kSmall, {"generate.prompt=\"a\\n\\t\\\"\\\\ \\u007f\\u0001 \xc3\xa9 # =\"",
                                 "optim.lr=0.1", "optim.eps=1e-300", "data.text=[\"a, b\", '\"']",
                                 "train.grad_clip=3", "train.batch_tokens=1_000_000B"});
  recipe.resolve(257);
  const std::string text = recipe.to_toml();
  Recipe again = parse(text);
  EXPECT_EQ(differences(fields_of(recipe), fields_of(again)), "");
  EXPECT_EQ(again.generate.prompt, recipe.generate.prompt);
  EXPECT_EQ(again.optim.eps, 1e-300);
  again.resolve(257);
  EXPECT_EQ(differences(fields_of(recipe), fields_of(again)), "");
}

TEST(Recipe, EachPrintedLineTellsWhereItsValueCameFrom) {
  Recipe recipe = parse(kSmall, {"optim.lr=0.1"});
  const std::string text = recipe.to_toml();
  EXPECT_NE(text.find("\nlr = 0.1  # command line\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\nmax_steps = 100  # r.toml:4:1\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\nweight_decay = 0.1  # default\n"), std::string::npos) << text;
}

TEST(Recipe, AnOriginCannotEscapeItsComment) {
  Recipe recipe = parse_recipe(kSmall, "a\n[optim]\nlr = 9 #", {});
  Recipe again = parse(recipe.to_toml());
  EXPECT_EQ(differences(fields_of(recipe), fields_of(again)), "");
}

TEST(Recipe, HelpListsEveryKeyWithItsDefault) {
  Recipe recipe;
  const std::string help = recipe.help();
  const auto values = field_values(fields_of(recipe));
  EXPECT_GE(values.size(), 60u);
  for (const auto& [key, value] : values)
    EXPECT_NE(help.find("  " + key + " = " + value + "\n"), std::string::npos) << key;
  EXPECT_NE(help.find("      cosine, wsd, linear, constant; "), std::string::npos);
  EXPECT_NE(help.find("      integer, at least 1, may end in K, M or B; tokens of an optimiser step"),
            std::string::npos);
}

TEST(Recipe, DifferencesNameEachChangedKey) {
  Recipe a = parse(kSmall), b = parse(kSmall, {"optim.lr=0.5", "model.attention.window=7"});
  EXPECT_EQ(differences(fields_of(a), fields_of(b)),
            "model.attention.window: 0 -> 7\noptim.lr: 0.001 -> 0.5\n");
}

TEST(Recipe, ComesFromAFileWithItsBase) {
  const ScratchFolder folder;
  std::ofstream(folder / "base.toml") << kSmall;
  std::ofstream(folder / "top.toml") << "extends = \"base.toml\"\n[train]\nmax_steps = 7\n";
  const std::string top = (folder / "top.toml").string();
  const Recipe recipe = load_recipe(top, {"schedule.warmup_steps=3"});
  EXPECT_EQ(recipe.train.max_steps, 7);
  EXPECT_EQ(recipe.data.text.size(), 1u);
  EXPECT_EQ(recipe.origins.at("train.max_steps"), top + ":3:1");
  EXPECT_EQ(recipe.origins.at("data.text"), (folder / "base.toml").string() + ":2:1");
}

// A struct whose later fields depend on an earlier one, as model.attention.kind decides on a config.
struct ChoosesFields {
  std::string kind = "a";
  int64_t only_a = 0, only_b = 0;
  void describe(FieldVisitor& v) {
    v("kind", kind, "which field follows", {.choices = {"a", "b"}});
    if (kind == "a") v("only_a", only_a, "of a");
    if (kind == "b") v("only_b", only_b, "of b");
  }
};

TEST(FieldReader, SetsValuesWhileItVisitsSoThatFieldsMayDependOnEarlierOnes) {
  const Settings settings = parse_toml("only_b = 3\nkind = \"b\"\n", "c.toml");
  FieldReader reader(settings);
  ChoosesFields fields;
  fields.describe(reader);
  reader.check_all_used();
  EXPECT_EQ(fields.only_b, 3);
  const Settings wrong = parse_toml("only_b = 3\n", "c.toml");
  FieldReader wrong_reader(wrong);
  ChoosesFields().describe(wrong_reader);
  EXPECT_EQ(
      config_error([&] { wrong_reader.check_all_used([](const std::string&) { return "only in kind b"; }); }),
      "c.toml:1:1: unknown key only_b = 3: only in kind b");
}

TEST(FieldReader, ReadsJsonThroughTheSameFields) {
  const auto json = nlohmann::json::parse(
      R"({"num_heads": 4, "num_kv_heads": 2, "rope": false, "rope_theta": 500, "rope_fraction": 0.5})");
  const Settings settings = settings_from_json(json, "case.h5");
  FieldReader reader(settings);
  ModelConfig model;
  model.attention->describe(reader);
  reader.check_all_used();
  EXPECT_EQ(model.attention->num_heads, 4);
  EXPECT_EQ(model.attention->num_kv_heads, 2);
  EXPECT_FALSE(model.attention->rope);
  EXPECT_EQ(model.attention->rope_theta, 500);
  EXPECT_EQ(model.attention->rope_fraction, 0.5);
  const Settings bad = settings_from_json({{"num_heads", "4"}}, "case.h5");
  FieldReader bad_reader(bad);
  EXPECT_EQ(config_error([&] { model.attention->describe(bad_reader); }),
            "case.h5: num_heads = \"4\": expected an integer from 1 to 1024");
}

}  // namespace
}  // namespace headway
