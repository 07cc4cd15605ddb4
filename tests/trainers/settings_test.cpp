// Values as recipes, command lines and JSON give them, before a field types them.
#include "trainers/config/settings.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tests/support/scratch_folder.h"
#include "tests/trainers/config_error.h"
#include "trainers/config/numbers.h"

namespace headway {
namespace {

class SettingsFiles : public testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& text) {
    const auto path = folder_ / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
    return path.string();
  }
  ScratchFolder folder_;
};

TEST_F(SettingsFiles, KeysKnowTheirFileLineAndColumn) {
  const std::string path = write("a.toml", "[model]\nnum_layers = 2\n  attention.kind = \"softmax\"\n");
  const Settings settings = read_toml(path);
  ASSERT_EQ(settings.size(), 2u);
  EXPECT_EQ(settings.at("model.num_layers").origin, path + ":2:1");
  EXPECT_EQ(settings.at("model.attention.kind").origin, path + ":3:13");
}

TEST(Settings, ATextInWhichTheParserLosesItsWayIsNamedByItsLine) {
  for (const char* header : {"[}]", "[|a]", "[a.}]", "[[}]]"})
    for (const char* tail : {"", "\n", "\nb = 1\nc = 2\n"}) {
      const std::string text = std::string("a = \"\"\"\nx\n\"\"\"\n") + header + tail;
      EXPECT_TRUE(config_error([&] { parse_toml(text, "r.toml"); }).starts_with("r.toml:4:")) << text;
    }
}

TEST_F(SettingsFiles, ARecipeOverridesWhatItExtendsAlongAChain) {
  write("base/root.toml", "[optim]\nlr = 1e-3\neps = 1e-8\nweight_decay = 0.1\n");
  write("base/middle.toml", "extends = \"root.toml\"\n[optim]\nlr = 2e-3\nbetas = [0.9, 0.99]\n");
  const std::string path = write("top.toml", "extends = \"base/middle.toml\"\n[optim]\neps = 1e-6\n");
  const Settings settings = read_toml(path);
  EXPECT_EQ(settings.at("optim.lr").text, "0.002");
  EXPECT_EQ(settings.at("optim.eps").text, "1e-06");
  EXPECT_EQ(settings.at("optim.weight_decay").text, "0.1");
  EXPECT_EQ(settings.at("optim.betas").shown(), "[0.9, 0.99]");
  EXPECT_EQ(settings.at("optim.weight_decay").origin, (folder_ / "base/root.toml").string() + ":4:1");
  EXPECT_FALSE(settings.contains("extends"));
}

TEST_F(SettingsFiles, AKeyOfTooManyPartsIsRefused) {
  for (const int parts : {17, 1000, 30'000}) {
    std::string key = "a";
    for (int i = 1; i < parts; ++i) key += ".a";
    const std::string message = config_error([&] { read_toml(write("deep.toml", key + " = 1\n")); });
    EXPECT_NE(message.find("has more than 16 parts"), std::string::npos) << message.substr(0, 500);
    EXPECT_LT(message.size(), 500u);
  }
}

TEST_F(SettingsFiles, AFileLargerThanAnyRecipeIsRefused) {
  const std::string path = write("large.toml", "# " + std::string(70'000, 'x') + "\n");
  EXPECT_NE(config_error([&] { read_toml(path); }).find("is larger than 64 KiB"), std::string::npos);
}

TEST_F(SettingsFiles, MessagesCutLongValues) {
  Settings settings;
  add_override(settings, "run.name=" + std::string(40'000, 'x'));
  EXPECT_LT(settings.at("run.name").shown().size(), 300u);
  EXPECT_LT(config_error([&] { add_override(settings, std::string(40'000, 'x')); }).size(), 500u);
}

TEST_F(SettingsFiles, TablesWithoutKeysAreFoundWhenAskedFor) {
  const std::string path = write("a.toml", "[model]\nnum_layers = 2\n[optim]\n[runs.x]\n");
  Settings empty_tables;
  EXPECT_EQ(read_toml(path, &empty_tables).size(), 1u);
  ASSERT_EQ(empty_tables.size(), 2u);
  EXPECT_EQ(empty_tables.at("optim").origin, path + ":3:2");
  EXPECT_TRUE(empty_tables.contains("runs.x"));
}

TEST_F(SettingsFiles, ASettingOfAFileIsTheSameAsAnOverride) {
  const std::string path = write("a.toml",
                                 "whole = 3\nsmall = 1e-5\nflag = true\nplain = \"cosine\"\ncount = \"32K\"\n"
                                 "odd = \" a\\\"\\\\\\n[b]\"\nnumbers = [1, 2.5]\n"
                                 "texts = [\"a,b.txt\", \"c d\", \"]\", \"\"]\nnone = []\n");
  const Settings settings = read_toml(path);
  ASSERT_EQ(settings.size(), 9u);
  for (const auto& [key, setting] : settings) {
    Settings again;
    add_override(again, as_override(key, setting));
    ASSERT_TRUE(again.contains(key));
    EXPECT_EQ(again.at(key).shown(), setting.shown());
    EXPECT_EQ(again.at(key).items.size(), setting.items.size());
  }
}

TEST_F(SettingsFiles, ACycleOfExtendsIsRefused) {
  const std::string a = write("a.toml", "extends = \"b.toml\"\n");
  const std::string b = write("b.toml", "\nextends = \"a.toml\"\n");
  EXPECT_EQ(config_error([&] { read_toml(a); }), b + ":2:1: recipe " + a + " extends itself");
}

TEST_F(SettingsFiles, AMissingBaseIsNamedWithTheLineThatWantsIt) {
  const std::string path = write("a.toml", "extends = \"b.toml\"\n");
  EXPECT_EQ(config_error([&] { read_toml(path); }),
            path + ":1:1: recipe " + (folder_ / "b.toml").string() + " does not exist");
  const std::string missing = (folder_ / "c.toml").string();
  EXPECT_EQ(config_error([&] { read_toml(missing); }), "recipe " + missing + " does not exist");
  const std::string folder = folder_.path().string();
  EXPECT_EQ(config_error([&] { read_toml(folder); }), "recipe " + folder + " is not a file");
}

TEST_F(SettingsFiles, ExtendsMustBeText) {
  const std::string path = write("a.toml", "extends = 3\n");
  EXPECT_EQ(config_error([&] { read_toml(path); }),
            path + ":1:1: extends = 3: expected the path of a recipe in quotes");
}

TEST_F(SettingsFiles, ASyntaxErrorNamesLineAndColumn) {
  const std::string path = write("a.toml", "[train]\nbatch_tokens = 1 2\n");
  EXPECT_TRUE(config_error([&] { read_toml(path); }).starts_with(path + ":2:"));
}

TEST_F(SettingsFiles, ACountWithoutQuotesIsExplained) {
  const std::string path = write("a.toml", "[train]\n# tokens\nbatch_tokens = 0.5M\n");
  const std::string message = config_error([&] { read_toml(path); });
  EXPECT_TRUE(message.starts_with(path + ":3:")) << message;
  EXPECT_TRUE(message.ends_with("(counts stand in quotes: \"0.5M\")")) << message;
}

TEST_F(SettingsFiles, AKeyGivenTwiceIsRefusedWithItsLine) {
  const std::string path = write("a.toml", "[train]\nmicro_batch = 2\nmicro_batch = 4\n");
  const std::string message = config_error([&] { read_toml(path); });
  EXPECT_TRUE(message.starts_with(path + ":3:")) << message;
  EXPECT_NE(message.find("micro_batch"), std::string::npos) << message;
}

TEST_F(SettingsFiles, DatesAndTablesInListsAreRefused) {
  const std::string date = write("a.toml", "[run]\nname = 2026-01-01\n");
  EXPECT_EQ(config_error([&] { read_toml(date); }),
            date + ":2:1: run.name: dates and tables inside lists have no meaning here");
  const std::string tables = write("b.toml", "[[run]]\nname = \"a\"\n");
  EXPECT_TRUE(config_error([&] { read_toml(tables); }).ends_with("have no meaning here"));
}

Setting overridden(std::string_view argument) {
  Settings settings;
  add_override(settings, argument);
  return settings.begin()->second;
}

TEST(Override, IsTextThatTheFieldGivesATypeTo) {
  const Setting setting = overridden("run.name = gated 2 ");
  EXPECT_EQ(setting.text, "gated 2");
  EXPECT_EQ(setting.kind, Setting::Kind::any);
  EXPECT_EQ(setting.origin, "command line");
}

TEST(Override, MayCarryDashes) {
  Settings settings;
  add_override(settings, "--optim.lr=3e-4");
  EXPECT_EQ(settings.at("optim.lr").text, "3e-4");
}

TEST(Override, TheLaterOfTwoCounts) {
  Settings settings;
  add_override(settings, "optim.lr=1");
  add_override(settings, "optim.lr=2");
  EXPECT_EQ(settings.at("optim.lr").text, "2");
}

TEST(Override, KeepsEqualsSignsInTheValue) { EXPECT_EQ(overridden("generate.prompt=a=b").text, "a=b"); }

TEST(Override, QuotedTextHasEscapes) {
  EXPECT_EQ(overridden("generate.prompt=\"a\\n\\\"b\\\"\"").text, "a\n\"b\"");
  EXPECT_EQ(overridden("generate.prompt='a\\n'").text, "a\\n");
  EXPECT_EQ(overridden("generate.prompt=\" \"").text, " ");
  EXPECT_EQ(config_error([] { overridden("generate.prompt=\"a"); }),
            "command line: generate.prompt = \"a: expected closed quotes and TOML's escapes between them");
}

TEST(Override, ListsStandInBrackets) {
  EXPECT_EQ(overridden("data.text=[a b, \"c,d\", 'e']").shown(), "[a b, \"c,d\", \"e\"]");
  EXPECT_EQ(overridden("optim.betas=[0.9,0.99,]").items.size(), 2u);
  EXPECT_TRUE(overridden("data.text=[]").items.empty());
}

TEST(Override, WithoutKeyOrValueIsRefused) {
  for (const char* argument : {"optim.lr", "=3", "--=3", "--"})
    EXPECT_EQ(
        config_error([&] { overridden(argument); }),
        std::string("command line: \"") + argument + "\" is not understood: expected section.key=value");
}

TEST(Override, MustBeUtf8BecauseTheStoredRecipeIs) {
  EXPECT_EQ(overridden("generate.prompt=\xc3\xa9\xe2\x82\xac\xf0\x9f\x99\x82").text.size(), 9u);
  for (const char* bytes : {"\xe9", "\xc0\xaf", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\xe2\x82"})
    EXPECT_EQ(config_error([&] { overridden(std::string("generate.prompt=") + bytes); }),
              "command line: the value of generate.prompt is not UTF-8");
}

TEST(SettingsFromJson, NestedNamesGetDots) {
  const auto json =
      nlohmann::json::parse(R"({"num_heads": 4, "rope": false, "map": {"eps": 1e-12, "k": ["a"]}})");
  const Settings settings = settings_from_json(json, "case.h5");
  EXPECT_EQ(settings.at("num_heads").kind, Setting::Kind::integer);
  EXPECT_EQ(settings.at("rope").kind, Setting::Kind::boolean);
  EXPECT_EQ(settings.at("map.eps").kind, Setting::Kind::number);
  EXPECT_EQ(settings.at("map.k").shown(), "[\"a\"]");
  EXPECT_EQ(settings.at("map.k").origin, "case.h5");
  EXPECT_EQ(config_error([] {
              settings_from_json({{"a", nullptr}}, "case.h5");
            }),
            "case.h5: null is no value of a key");
}

TEST(Numbers, MayCarryUnderscoresBetweenDigits) {
  EXPECT_EQ(parse_integer("1_000_000"), 1'000'000);
  EXPECT_EQ(parse_integer("-1_0"), -10);
  EXPECT_EQ(parse_integer("+7"), 7);
  EXPECT_EQ(parse_number("1_0.5e-1"), 1.05);
  for (const char* text : {"", "_1", "1_", "1__0", "+-1", "1.5", "1 ", "0x10", "9223372036854775808"})
    EXPECT_FALSE(parse_integer(text)) << text;
  for (const char* text : {"", "inf", "nan", "1e999", "1,5", "1._5"})
    EXPECT_FALSE(parse_number(text)) << text;
}

TEST(Numbers, CountsMayEndInKMOrB) {
  EXPECT_EQ(parse_count("4096"), 4096);
  EXPECT_EQ(parse_count("32K"), 32'000);
  EXPECT_EQ(parse_count("0.5m"), 500'000);
  EXPECT_EQ(parse_count("1_0.25B"), 10'250'000'000);
  EXPECT_EQ(parse_count("1.001K"), 1001);  // 1.001 * 1e3 in floating point is not whole
  EXPECT_EQ(parse_count("-2K"), -2000);
  EXPECT_EQ(parse_count("1.5000K"), 1500);
  for (const char* text : {"", "K", "1.0005K", "1e3K", "1KK", ".K", "1.K2", "99999999999B", "1 K"})
    EXPECT_FALSE(parse_count(text)) << text;
}

}  // namespace
}  // namespace headway
