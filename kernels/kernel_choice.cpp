#include "kernels/kernel_choice.h"

#include <algorithm>

namespace headway {

KernelChoices::KernelChoices() { current() = this; }

KernelChoices::~KernelChoices() { current() = nullptr; }

KernelChoices*& KernelChoices::current() {
  thread_local KernelChoices* choices = nullptr;
  return choices;
}

void KernelChoices::add(std::string_view op, std::string_view kernel, const std::string& reasons) {
  std::string choice(op);
  choice.append(": ").append(kernel);
  if (!reasons.empty()) choice += " (" + reasons + ")";
  if (std::ranges::find(choices_, choice) == choices_.end()) choices_.push_back(std::move(choice));
}

std::string KernelChoices::summary() const {
  std::string line;
  for (const std::string& choice : choices_) line += (line.empty() ? "" : "; ") + choice;
  return line;
}

}  // namespace headway
