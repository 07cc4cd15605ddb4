// The options of a program and of its verbs. CLI11 reads them, and its header, which takes seven seconds to
// compile, is included in command_line.cpp alone.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace headway {

/// What the value of an option must be; ConfigError while the command line is read where it is something
/// else.
class OptionRule {
 public:
  explicit OptionRule(CLI::Option& option) : option_(option) {}
  OptionRule& required();
  OptionRule& one_of(const std::vector<std::string>& choices);
  /// Numbers alone, without digits that do not fit. (Ranges of CLI11 let nan and overflowing integers pass.)
  OptionRule& integer_from(int64_t min, int64_t max);
  OptionRule& number_from(double min, double max);

 private:
  CLI::Option& option_;
};

class OptionList {
 public:
  explicit OptionList(CLI::App& app) : app_(app) {}
  /// Examples and explanations below the list of options in --help.
  void add_footer(const std::string& text);
  /// `names` is "--tokens", "-n,--ranks", or "recipe" for a positional argument; `value` keeps its default
  /// where the option is not given, and must outlive the reading. T is bool (a flag), int, int64_t,
  /// std::string, std::optional of an int, int64_t, double or std::string, or std::vector<std::string>.
  template <class T>
  OptionRule add(const std::string& names, T& value, const std::string& help);
  /// Appends every "section.key=value" argument, with or without leading dashes. ConfigError for any other
  /// option that is not known, with the nearest one that is.
  void add_overrides(std::vector<std::string>& values);

 private:
  CLI::App& app_;
};

class CommandLine {
 public:
  CommandLine(const std::string& program, const std::string& description);
  ~CommandLine();

  OptionList options();
  /// --version prints this text.
  void add_version(const std::string& text);
  /// One of the verbs must be given.
  OptionList add_verb(const std::string& name, const std::string& summary);
  /// False where --help or --version was asked for and has been printed. ConfigError for what is not
  /// understood.
  bool read(int argc, char** argv);

 private:
  std::unique_ptr<CLI::App> app_;
};

}  // namespace headway
