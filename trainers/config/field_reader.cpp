#include "trainers/config/field_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <optional>

#include "core/error.h"

namespace headway {
namespace {

using Kind = Setting::Kind;

// What other frameworks call our keys; only for messages.
struct ForeignName {
  std::string_view theirs, ours;
};
constexpr ForeignName kForeignNames[] = {
    {"learning_rate", "optim.lr"},
    {"lr", "optim.lr"},
    {"min_lr", "schedule.min_lr_ratio (the final rate as a share of the peak)"},
    {"warmup_iters", "schedule.warmup_steps"},
    {"lr_warmup_steps", "schedule.warmup_steps"},
    {"decay_type", "schedule.kind"},
    {"global_batch_size", "train.batch_tokens (in tokens)"},
    {"batch_size", "train.micro_batch (sequences per rank and forward pass)"},
    {"micro_batch_size", "train.micro_batch"},
    {"local_batch_size", "train.micro_batch"},
    {"gradient_accumulation_steps", "derived from train.batch_tokens and train.micro_batch"},
    {"grad_accum", "derived from train.batch_tokens and train.micro_batch"},
    {"max_iters", "train.max_steps"},
    {"train_iters", "train.max_steps"},
    {"steps", "train.max_steps"},
    {"max_norm", "train.grad_clip"},
    {"clip_grad", "train.grad_clip"},
    {"max_grad_norm", "train.grad_clip"},
    {"precision", "train.dtype"},
    {"beta1", "optim.betas"},
    {"beta2", "optim.betas"},
    {"block_size", "data.seq_len"},
    {"max_seq_length", "data.seq_len"},
    {"context_length", "data.seq_len"},
    {"n_layer", "model.num_layers"},
    {"n_head", "model.attention.num_heads"},
    {"n_kv_head", "model.attention.num_kv_heads"},
    {"d_model", "model.model_dim"},
    {"n_embd", "model.model_dim"},
    {"hidden_size", "model.model_dim"},
    {"eval_interval", "eval.every_steps"},
    {"eval_iters", "eval.batches"},
    {"log_interval", "log.every_steps"},
    {"save_interval", "checkpoint.every_steps"},
};

std::string trimmed_number(double value) { return fmt::format("{}", value); }

std::string expected_range(const FieldRule& rule) {
  if (std::isinf(rule.min) && std::isinf(rule.max)) return "";
  if (std::isinf(rule.max)) return fmt::format(" of at least {}", trimmed_number(rule.min));
  return fmt::format(" from {} to {}", trimmed_number(rule.min), trimmed_number(rule.max));
}

template <class T>
std::string expected(const FieldRule&);
template <>
std::string expected<bool>(const FieldRule&) {
  return "true or false";
}
template <>
std::string expected<int64_t>(const FieldRule& rule) {
  return "an integer" + expected_range(rule) + (rule.is_count ? ", as in 4096, 32K or 1.5M" : "");
}
template <>
std::string expected<double>(const FieldRule& rule) {
  return "a number" + expected_range(rule);
}
template <>
std::string expected<std::string>(const FieldRule& rule) {
  if (rule.choices.empty()) return "a text in quotes";
  std::vector<std::string> quoted;
  for (const auto choice : rule.choices) quoted.push_back(fmt::format("\"{}\"", choice));
  return quoted.size() == 1 ? quoted[0] : fmt::format("one of {}", fmt::join(quoted, ", "));
}

template <class T>
std::optional<T> parse_whole(std::string text) {
  std::erase(text, '_');
  const char* begin = text.data() + (text.starts_with('+') ? 1 : 0);
  T value{};
  const auto [end, error] = std::from_chars(begin, text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<int64_t> parse_count(const std::string& text) {
  constexpr std::pair<char, double> kSuffixes[] = {{'K', 1e3}, {'M', 1e6}, {'B', 1e9}};
  for (const auto& [suffix, factor] : kSuffixes) {
    if (text.empty() || std::toupper(static_cast<unsigned char>(text.back())) != suffix) continue;
    const auto value = parse_whole<double>(text.substr(0, text.size() - 1));
    if (!value || std::abs(*value * factor) > 9e18 || std::round(*value * factor) != *value * factor)
      return std::nullopt;
    return static_cast<int64_t>(*value * factor);
  }
  return std::nullopt;
}

bool in_range(double value, const FieldRule& rule) { return value >= rule.min && value <= rule.max; }

std::optional<bool> convert(const Setting& s, const FieldRule&, bool) {
  if (s.kind != Kind::any && s.kind != Kind::boolean) return std::nullopt;
  if (s.text == "true") return true;
  if (s.text == "false") return false;
  return std::nullopt;
}

std::optional<int64_t> convert(const Setting& s, const FieldRule& rule, int64_t) {
  std::optional<int64_t> value;
  if (s.kind == Kind::any || s.kind == Kind::integer) value = parse_whole<int64_t>(s.text);
  if (!value && rule.is_count && (s.kind == Kind::any || s.kind == Kind::string)) value = parse_count(s.text);
  if (value && !in_range(static_cast<double>(*value), rule)) return std::nullopt;
  return value;
}

std::optional<double> convert(const Setting& s, const FieldRule& rule, double) {
  if (s.kind != Kind::any && s.kind != Kind::integer && s.kind != Kind::number) return std::nullopt;
  const auto value = parse_whole<double>(s.text);
  if (!value || !std::isfinite(*value) || !in_range(*value, rule)) return std::nullopt;
  return value;
}

std::optional<std::string> convert(const Setting& s, const FieldRule& rule, const std::string&) {
  if (s.kind != Kind::any && s.kind != Kind::string) return std::nullopt;
  std::string text = s.text;
  if (s.kind == Kind::any && text.size() >= 2 && text.front() == '"' && text.back() == '"')
    text = text.substr(1, text.size() - 2);
  if (!rule.choices.empty() &&
      std::find(rule.choices.begin(), rule.choices.end(), text) == rule.choices.end())
    return std::nullopt;
  return text;
}

std::string dotted(const std::vector<std::string>& path, std::string_view name) {
  std::string key;
  for (const std::string& part : path) key += part + ".";
  return key + std::string(name);
}

[[noreturn]] void refuse(const Setting& setting, const std::string& key, const std::string& expectation) {
  throw ConfigError(
      fmt::format("{}: {} = {}: expected {}", setting.origin, key, setting.shown(), expectation));
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substitute = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitute});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, name.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(name, candidate);
    if (distance < best_distance) best_distance = distance, best = candidate;
  }
  return best;
}

void FieldReader::enter(std::string_view name, std::string_view) { path_.emplace_back(name); }
void FieldReader::leave() { path_.pop_back(); }

const Setting* FieldReader::find(const FieldInfo& info) {
  const std::string key = dotted(path_, info.name);
  const auto found = settings_.find(key);
  origins_[key] = found == settings_.end() ? "default" : found->second.origin;
  return found == settings_.end() ? nullptr : &found->second;
}

template <class T>
void FieldReader::read(const FieldInfo& info, T& value) {
  const Setting* setting = find(info);
  if (!setting) return;
  const std::optional<T> converted = convert(*setting, info.rule, value);
  if (!converted) refuse(*setting, dotted(path_, info.name), expected<T>(info.rule));
  value = *converted;
}

template <class T>
void FieldReader::read_list(const FieldInfo& info, std::vector<T>& value) {
  const Setting* setting = find(info);
  if (!setting) return;
  const std::string expectation = "a list of " + expected<T>(info.rule);
  if (setting->kind != Kind::list && setting->kind != Kind::any)
    refuse(*setting, dotted(path_, info.name), expectation);
  std::vector<T> list;
  // The command line may give a list of one without brackets.
  const std::vector<Setting> one{*setting};
  for (const Setting& item : setting->kind == Kind::list ? setting->items : one) {
    const std::optional<T> converted = convert(item, info.rule, T{});
    if (!converted) refuse(*setting, dotted(path_, info.name), expectation);
    list.push_back(*converted);
  }
  value = std::move(list);
}

void FieldReader::visit(const FieldInfo& info, bool& value) { read(info, value); }
void FieldReader::visit(const FieldInfo& info, int64_t& value) { read(info, value); }
void FieldReader::visit(const FieldInfo& info, double& value) { read(info, value); }
void FieldReader::visit(const FieldInfo& info, std::string& value) { read(info, value); }
void FieldReader::visit(const FieldInfo& info, std::vector<int64_t>& value) { read_list(info, value); }
void FieldReader::visit(const FieldInfo& info, std::vector<double>& value) { read_list(info, value); }
void FieldReader::visit(const FieldInfo& info, std::vector<std::string>& value) { read_list(info, value); }

void FieldReader::check_all_used() const {
  for (const auto& [key, setting] : settings_) {
    if (origins_.contains(key)) continue;
    const size_t dot = key.rfind('.');
    const std::string last = dot == std::string::npos ? key : key.substr(dot + 1);
    std::string hint;
    for (const ForeignName& name : kForeignNames)
      if (last == name.theirs) hint = fmt::format("`{}` is {} here", last, name.ours);
    if (hint.empty()) {
      std::vector<std::string> known;
      for (const auto& [name, origin] : origins_) known.push_back(name);
      const std::string nearest = nearest_name(key, known);
      hint = nearest.empty() ? "`headway train --help-recipe` lists all keys"
                             : fmt::format("did you mean {}?", nearest);
    }
    throw ConfigError(fmt::format("{}: unknown key {} = {}: {}", setting.origin, key, setting.shown(), hint));
  }
}

}  // namespace headway
