// A number and its derivative with respect to one variable: value + eps * d.
#pragma once

#include <cmath>

#include "core/host_device.h"

namespace headway {

template <class S>
struct Dual {
  S value{};
  S eps{};

  Dual() = default;
  HEADWAY_HD Dual(S value_in, S eps_in = S(0)) : value(value_in), eps(eps_in) {}

  friend HEADWAY_HD Dual operator+(Dual a, Dual b) { return {a.value + b.value, a.eps + b.eps}; }
  friend HEADWAY_HD Dual operator-(Dual a, Dual b) { return {a.value - b.value, a.eps - b.eps}; }
  friend HEADWAY_HD Dual operator-(Dual a) { return {-a.value, -a.eps}; }
  friend HEADWAY_HD Dual operator*(Dual a, Dual b) {
    return {a.value * b.value, a.eps * b.value + a.value * b.eps};
  }
  friend HEADWAY_HD Dual operator/(Dual a, Dual b) {
    return {a.value / b.value, (a.eps * b.value - a.value * b.eps) / (b.value * b.value)};
  }
  friend HEADWAY_HD bool operator<(Dual a, Dual b) { return a.value < b.value; }
  friend HEADWAY_HD bool operator>(Dual a, Dual b) { return a.value > b.value; }
};

template <class S>
HEADWAY_HD Dual<S> exp(Dual<S> a) {
  using std::exp;
  const S e = exp(a.value);
  return {e, e * a.eps};
}
template <class S>
HEADWAY_HD Dual<S> log(Dual<S> a) {
  using std::log;
  return {log(a.value), a.eps / a.value};
}
template <class S>
HEADWAY_HD Dual<S> tanh(Dual<S> a) {
  using std::tanh;
  const S t = tanh(a.value);
  return {t, (S(1) - t * t) * a.eps};
}
template <class S>
HEADWAY_HD Dual<S> sqrt(Dual<S> a) {
  using std::sqrt;
  const S r = sqrt(a.value);
  return {r, a.eps / (S(2) * r)};
}

}  // namespace headway
