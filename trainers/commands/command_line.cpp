#include "trainers/commands/command_line.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <optional>

#include "core/error.h"
#include "trainers/config/numbers.h"
#include "trainers/config/settings.h"
#include "trainers/config/unknown_key.h"

namespace headway {
namespace {

template <class T>
CLI::Validator range_of(std::optional<T> (*parse)(std::string_view), T min, T max, const char* what) {
  return CLI::Validator(
      [=](const std::string& text) {
        const std::optional<T> value = parse(text);
        return value && *value >= min && *value <= max
                   ? std::string()
                   : fmt::format("{}: expected {} from {} to {}", shortened(text), what, min, max);
      },
      "");
}

std::string unknown_option(const CLI::App& app, const std::string& given) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  const std::string nearest = nearest_name(given, names);
  const std::string program = app.get_parent() ? app.get_parent()->get_name() + " " : "";
  return fmt::format("{} has no option {}: {}see {}{} --help", app.get_name(), shortened(given),
                     nearest.empty() ? "" : fmt::format("did you mean {}? ", nearest), program,
                     app.get_name());
}

}  // namespace

OptionRule& OptionRule::required() {
  option_.required();
  return *this;
}

OptionRule& OptionRule::one_of(const std::vector<std::string>& choices) {
  option_.check(CLI::IsMember(choices));
  return *this;
}

OptionRule& OptionRule::integer_from(int64_t min, int64_t max) {
  option_.check(range_of(parse_integer, min, max, "an integer"));
  return *this;
}

OptionRule& OptionRule::number_from(double min, double max) {
  option_.check(range_of(parse_number, min, max, "a number"));
  return *this;
}

void OptionList::add_footer(const std::string& text) { app_.footer(text); }

template <class T>
OptionRule OptionList::add(const std::string& names, T& value, const std::string& help) {
  return OptionRule(*app_.add_option(names, value, help));
}

template <>
OptionRule OptionList::add(const std::string& names, bool& value, const std::string& help) {
  return OptionRule(*app_.add_flag(names, value, help));
}

template OptionRule OptionList::add(const std::string&, int&, const std::string&);
template OptionRule OptionList::add(const std::string&, int64_t&, const std::string&);
template OptionRule OptionList::add(const std::string&, std::string&, const std::string&);
template OptionRule OptionList::add(const std::string&, std::optional<int>&, const std::string&);
template OptionRule OptionList::add(const std::string&, std::optional<int64_t>&, const std::string&);
template OptionRule OptionList::add(const std::string&, std::optional<double>&, const std::string&);
template OptionRule OptionList::add(const std::string&, std::optional<std::string>&, const std::string&);
template OptionRule OptionList::add(const std::string&, std::vector<std::string>&, const std::string&);

void OptionList::add_overrides(std::vector<std::string>& values) {
  app_.add_option("overrides", values, "section.key=value, over what the recipe says; the last one counts");
  // --section.key=value is no option that CLI11 knows.
  app_.allow_extras();
  app_.parse_complete_callback([&app = app_, &values] {
    for (const std::string& extra : app.remaining()) {
      HEADWAY_CHECK(extra.find('=') != std::string::npos, ConfigError, unknown_option(app, extra));
      values.push_back(extra);
    }
  });
}

CommandLine::CommandLine(const std::string& program, const std::string& description)
    : app_(std::make_unique<CLI::App>(description, program)) {}

CommandLine::~CommandLine() = default;

OptionList CommandLine::options() { return OptionList(*app_); }

void CommandLine::add_version(const std::string& text) { app_->set_version_flag("--version", text); }

OptionList CommandLine::add_verb(const std::string& name, const std::string& summary) {
  app_->require_subcommand(1);
  return OptionList(*app_->add_subcommand(name, summary));
}

bool CommandLine::read(int argc, char** argv) {
  try {
    app_->parse(argc, argv);
    return true;
  } catch (const CLI::Success& request) {
    app_->exit(request);  // --help, --version
    return false;
  } catch (const CLI::ParseError& error) {
    std::string verb;
    for (const CLI::App* chosen : app_->get_subcommands()) verb = " " + chosen->get_name();
    throw ConfigError(fmt::format("{}; see {}{} --help", error.what(), app_->get_name(), verb));
  }
}

}  // namespace headway
