// Files by pattern.
#include "core/text/glob.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/error.h"
#include "tests/support/scratch_folder.h"

namespace headway {
namespace {

namespace fs = std::filesystem;

class Glob : public testing::Test {
 protected:
  void write(const std::string& name) {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name) << name;
  }
  /// The names below the scratch folder.
  std::vector<std::string> find(std::vector<std::string> patterns) {
    for (std::string& pattern : patterns) pattern = (folder_ / pattern).string();
    std::vector<std::string> names;
    for (const fs::path& path : find_files(patterns, "data.text"))
      names.push_back(path.lexically_relative(folder_.path()).string());
    return names;
  }
  using Names = std::vector<std::string>;
  ScratchFolder folder_;
};

TEST_F(Glob, WhatRunsAndSweepsWriteIsLeftOut) {
  write("a.txt");
  write("books/b.txt");
  write("runs/first/run.json");
  write("runs/first/recipe.resolved.toml");
  write("runs/first/log.txt");
  write("runs/first/samples/step.txt");
  write("sweeps/variants/.lock");
  write("sweeps/variants/runs/arm/run.json");
  write("sweeps/variants/logs/arm.txt");
  EXPECT_EQ(find({"**/*.txt"}), (Names{"a.txt", "books/b.txt"}));
  EXPECT_EQ(find({""}), (Names{"a.txt", "books/b.txt"}));
  EXPECT_EQ(find({"*", "books/*"}), (Names{"a.txt", "books/b.txt"}));
  EXPECT_THROW(find({"runs/*/log.txt"}), DataError);
  EXPECT_EQ(find({"runs/first/samples/*.txt"}), (Names{"runs/first/samples/step.txt"}));
}

TEST_F(Glob, AFolderOfAnotherProgramWithARunJsonIsRead) {
  write("data/run.json");
  write("data/a.txt");
  EXPECT_EQ(find({"**/*.txt"}), (Names{"data/a.txt"}));
}

TEST_F(Glob, EverythingBelowTheCurrentFolderIsFound) {
  write("books/a.txt");
  const fs::path before = fs::current_path();
  fs::current_path(folder_.path());
  const std::vector<std::string> patterns{"**"};
  EXPECT_EQ(find_files(patterns, "data.text").size(), 1u);
  fs::current_path(before);
}

// What cannot be looked at is no absent file: text would be left out without a word.
TEST_F(Glob, APathThatCannotBeLookedUpIsASentence) {
  try {
    find({std::string(300, 'a') + "/b.txt"});
    FAIL() << "nothing was thrown";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("cannot look up "), std::string::npos) << error.what();
  }
}

TEST_F(Glob, AFileCountsOnceHoweverItIsNamed) {
  write("books/a.txt");
  fs::create_directory_symlink(folder_ / "books", folder_ / "linked");
  fs::create_symlink(folder_ / "books/a.txt", folder_ / "b.txt");
  EXPECT_EQ(find({"books/*.txt", "books/../books/a.txt", "linked/*.txt", "*.txt"}).size(), 1u);
}

}  // namespace
}  // namespace headway
