// Explicit Runge–Kutta steps of a tile: every lane has its own time, step, error norm and decision. The formulas are the
// eager engine's (engines/eager/per_sample.py). What is solved, and what happens between steps, is its users' business.
#pragma once
#include "interpreter.hpp"

struct Method {
  int32_t stages, extra, fsal, degree, adaptive; // extra: further stages, for the interpolant
  const double *a, *b, *c, *error;               // a (all stages, all stages), rows below the diagonal; b, error (stages)
  const double *dense;                           // (degree, all stages)
  double center;
};
struct Control {
  double e0, e1, e2, safety, min_factor, max_factor, min_step, max_step, first_step;
  int32_t error_order, max_steps;
  int32_t success, limit, too_small, non_finite; // statuses
};

// The stages with a weight that is not 0, of a row of a tableau.
template <class T> struct Weights {
  int count = 0;
  int stage[32];
  T weight[32];
  Weights(const double *row, int stages) {
    for (int j = 0; j < stages; j++)
      if (row[j] != 0) stage[count] = j, weight[count++] = T(row[j]);
  }
};

template <class T, int NV> struct Stepper {
  static constexpr int W = NV * LENGTH<T>, ND = W / LENGTH<double>;
  // The clocks of LENGTH<double> lanes, what is true of them (0 or −1, as wide), and their numbers in the precision of y.
  typedef V<double> Clocks;
  typedef I<double> Truths;
  typedef Numbers<T> Some;
  typedef Masks<T> Which;
  const Method &m;
  const Control &q;
  const int n, s, all_stages;
  const T *rtol, *atol;
  Memory memory;
  V<T> *y, *y1, *stage, *ks;
  std::vector<T> a, b, dense;
  std::vector<Weights<T>> rows, of_dense; // of a, of dense
  const Weights<T> whole, errors;
  alignas(64) double t[W], t1[W], h[W], stop[W], r1[W], r2[W], spacing[W], sign[W], square[W], factor[W];
  alignas(64) T low[W], high[W], times[W]; // the interval f may be asked in; the times it is asked at
  alignas(64) int64_t alive[W], accepted[W], clipped[W], stale[W]; // 0 or YES
  bool leaves_jump[W], meets_jump[W];
  alignas(64) int64_t taken[W], rejected[W], calls[W];
  static constexpr int64_t YES = -1;
  bool jumping = false; // whether anything jumps
  V<T> hv[NV];

  Stepper(const Method &method, const Control &control, int size, const T *relative, const T *absolute)
      : m(method), q(control), n(size), s(m.stages), all_stages(m.stages + m.extra), rtol(relative), atol(absolute),
        memory(sizeof(T) * W * size * (all_stages + 3)), a(m.a, m.a + all_stages * all_stages), b(m.b, m.b + s),
        dense(m.dense, m.dense + m.degree * all_stages), whole(m.b, s), errors(m.error, s) {
    for (int i = 0; i < all_stages; i++) rows.emplace_back(m.a + i * all_stages, i);
    for (int p = 0; p < m.degree; p++) of_dense.emplace_back(m.dense + p * all_stages, all_stages);
    y = (V<T> *)memory.data, y1 = y + n * NV, stage = y1 + n * NV, ks = stage + n * NV;
    for (int l = 0; l < W; l++) rest(l);
  }
  static Clocks &part(double *x, int i) { return ((Clocks *)x)[i]; }
  static Truths &part(int64_t *x, int i) { return ((Truths *)x)[i]; }
  static Some &numbers(T *x, int i) { return ((Some *)x)[i]; }
  static bool any(Truths x) {
    for (int i = 1; i < LENGTH<double>; i++) x[0] |= x[i];
    return x[0];
  }
  static bool any(int64_t *x) {
    Truths all{};
    for (int i = 0; i < ND; i++) all |= part(x, i);
    return any(all);
  }
  // Lanes of which something is true, as masks of rows.
  static void masks(int64_t *truths, I<T> *out) {
    for (int i = 0; i < ND; i++) ((Which *)out)[i] = converted<Which>(part(truths, i));
  }
  V<T> *k(int i) const { return ks + int64_t(i) * n * NV; }
  static T &lane(V<T> *x, int64_t row, int l) { return ((T *)(x + row * NV))[l]; }
  // A lane without a sample stands still, somewhere finite.
  void rest(int l) {
    alive[l] = accepted[l] = clipped[l] = stale[l] = 0, leaves_jump[l] = meets_jump[l] = false;
    t[l] = t1[l] = h[l] = stop[l] = spacing[l] = 0, sign[l] = 1, r1[l] = r2[l] = 1, low[l] = high[l] = 0;
    for (int d = 0; d < n; d++) lane(y, d, l) = 0;
  }
  // The counters and the controller's memory of a new sample.
  void begin(int l) { taken[l] = rejected[l] = calls[l] = 0, r1[l] = r2[l] = 1; }

  // Calls `use` with row, vector and Σ weights_j k_j, for all of them.
  template <class F> void sums(const Weights<T> &weights, F use) const {
    for (int d = 0; d < n; d++) {
      V<T> sum[NV] = {};
      for (int j = 0; j < weights.count; j++) {
        const V<T> *slope = k(weights.stage[j]) + d * NV;
#pragma GCC unroll 8
        for (int v = 0; v < NV; v++) sum[v] += weights.weight[j] * slope[v];
      }
#pragma GCC unroll 8
      for (int v = 0; v < NV; v++) use(d, v, sum[v]);
    }
  }
  // out = y + h Σ weights_j k_j
  void combined(const Weights<T> &weights, V<T> *out) const {
    sums(weights, [&](int d, int v, V<T> sum) __attribute__((always_inline)) {
      out[d * NV + v] = y[d * NV + v] + hv[v] * sum;
    });
  }
  // The interpolant as a polynomial: y(θ) = y + h Σ_p c_p x_p(θ), x_p = (θ − center)^(p + 1) − (−center)^(p + 1).
  // x_p, (degree) rows
  void powers(const V<T> *theta, V<T> *out) const {
    const T center = T(m.center);
    V<T> x[NV], power[NV];
    for (int v = 0; v < NV; v++) power[v] = x[v] = theta[v] - center;
    T start = -center;
    for (int p = 0; p < m.degree; p++, start *= -center)
      for (int v = 0; v < NV; v++) out[p * NV + v] = power[v] - start, power[v] *= x[v];
  }
  // c_p = Σ_i dense_pi k_i, (degree, n) rows
  void polynomial(V<T> *out) const {
    for (int p = 0; p < m.degree; p++, out += n * NV)
      sums(of_dense[p], [&](int d, int v, V<T> sum) __attribute__((always_inline)) { out[d * NV + v] = sum; });
  }
  // out = from + h Σ c_p x_p
  void interpolated(const V<T> *c, const V<T> *x, const V<T> *from, V<T> *out) const {
    for (int d = 0; d < n; d++) {
      V<T> sum[NV] = {};
      for (int p = 0; p < m.degree; p++)
#pragma GCC unroll 8
        for (int v = 0; v < NV; v++) sum[v] += c[(p * n + d) * NV + v] * x[p * NV + v];
#pragma GCC unroll 8
      for (int v = 0; v < NV; v++) out[d * NV + v] = from[d * NV + v] + hv[v] * sum[v];
    }
  }
  // The way back: g_p += g x_p for a cotangent g of an interpolated state, (degree, n) rows; and once all of a step are in,
  // those of the slopes of some stages, (stages, n) rows: h Σ_p dense_pi g_p
  void gather(const V<T> *g, const V<T> *x, V<T> *into) const {
    for (int p = 0; p < m.degree; p++)
      for (int d = 0; d < n * NV; d += NV, into += NV)
#pragma GCC unroll 8
        for (int v = 0; v < NV; v++) into[v] += g[d + v] * x[p * NV + v];
  }
  void scatter(const V<T> *g, int first, int last, V<T> *out) const {
    for (int i = first; i < last; i++)
      for (int d = 0; d < n; d++, out += NV) {
        V<T> sum[NV] = {};
        for (int p = 0; p < m.degree; p++)
#pragma GCC unroll 8
          for (int v = 0; v < NV; v++) sum[v] += dense[p * all_stages + i] * g[(p * n + d) * NV + v];
#pragma GCC unroll 8
        for (int v = 0; v < NV; v++) out[v] = hv[v] * sum[v];
      }
  }
  // Where in the step times are, from 0 to 1.
  void place(double *key, V<T> *theta) { place(key, t, t1, theta); }
  static void place(double *key, double *from, double *to, V<T> *theta) {
    for (int i = 0; i < ND; i++)
      numbers((T *)theta, i) =
          converted<Some>((part(key, i) - part(from, i)) / (part(to, i) - part(from, i)));
  }
  // h of steps from and to given times.
  void step_between(double *from, double *to) {
    for (int i = 0; i < ND; i++)
      numbers((T *)hv, i) = converted<Some>((part(to, i) - part(from, i)) * part(sign, i));
  }
  // The lanes of which something is true, in order; returns how many.
  static int list(const int64_t *truths, int *lanes) {
    int count = 0;
    for (int l = 0; l < W; l++) lanes[count] = l, count -= int(truths[l]);
    return count;
  }

  // Where this attempt goes: to t + h, or to the stop before that.
  void aim() {
    T *step = (T *)hv;
    for (int i = 0; i < ND; i++) {
      Clocks from = part(t, i), to = from + part(h, i), end = part(stop, i);
      part(clipped, i) = to >= end;
      part(t1, i) = to = to >= end ? end : to;
      numbers(step, i) = converted<Some>((to - from) * part(sign, i));
    }
    if (!jumping) return;
    for (int l = 0; l < W; l++) {
      T from = T(t[l] * sign[l]), to = T(t1[l] * sign[l]);
      low[l] = leaves_jump[l] ? std::nextafter(from, to) : from;
      high[l] = clipped[l] && meets_jump[l] ? std::nextafter(to, from) : to;
    }
  }
  void stage_times(int i) {
    const double c = m.c[i];
    for (int j = 0; j < ND; j++) {
      Clocks from = part(t, j), to = part(t1, j), at = c == 0 ? from : c == 1 ? to : from + c * (to - from);
      numbers(times, j) = converted<Some>(at * part(sign, j));
    }
    if (jumping)
      for (int l = 0; l < W; l++) {
        T first = std::min(low[l], high[l]), last = std::max(low[l], high[l]);
        times[l] = std::min(std::max(times[l], first), last);
      }
  }
  // The slopes at the start of the lanes that do not have them yet; f(stage, times, x, out).
  template <class F> void refresh(F f) {
    if (!any(stale)) return;
    stage_times(0);
    f(0, times, y, stage);
    I<T> mask[NV];
    masks(stale, mask);
    for (int i = 0; i < ND; i++) part(calls, i) -= part(stale, i), part(stale, i) = Truths{};
    for (int d = 0; d < n * NV; d += NV)
      for (int v = 0; v < NV; v++) ks[d + v] = pick<T>(mask[v], stage[d + v], ks[d + v]);
  }
  // The stages of this attempt, y1, and the square of the error's norm.
  template <class F> void attempt(F f) {
    for (int i = 1; i < s; i++) {
      stage_times(i);
      V<T> *x = m.fsal && i == s - 1 ? y1 : stage;
      combined(rows[i], x);
      f(i, times, x, k(i));
    }
    if (!m.fsal) combined(whole, y1);
  }
  // The further stages of the interpolant.
  template <class F> void complete(F f) {
    for (int i = s; i < all_stages; i++) {
      stage_times(i);
      combined(rows[i], stage);
      f(i, times, stage, k(i));
    }
  }
  // Which lanes accept, and the step each goes on with.
  // Returns whether any lane is to leave: its status is in `left`, else 0.
  bool judge(int64_t *left) {
    V<T> norms[NV] = {};
    if (m.adaptive) {
      V<T> squares[NV] = {};
      sums(errors, [&](int d, int v, V<T> sum) __attribute__((always_inline)) {
        V<T> x = magnitude<T>(y[d * NV + v]), z = magnitude<T>(y1[d * NV + v]);
        V<T> r = hv[v] * sum / (atol[d] + rtol[d] * f_maximum::at<T>(x, z));
        squares[v] += r * r;
      });
      for (int v = 0; v < NV; v++) norms[v] = squares[v];
    } else {
      for (int d = 0; d < n * NV; d += NV)
        for (int v = 0; v < NV; v++) norms[v] += y1[d + v] * 0; // 0, or NaN where y1 is not finite
    }
    Truths leaving{};
    for (int i = 0; i < ND; i++) {
      part(square, i) = converted<Clocks>(numbers((T *)norms, i)) / double(n);
      part(taken, i) -= part(alive, i), part(calls, i) += part(alive, i) & int64_t(s - 1);
    }
    if (!m.adaptive) {
      for (int i = 0; i < ND; i++) {
        Truths good = part(square, i) == 0, fails = part(alive, i) & ~good;
        part(accepted, i) = part(alive, i) & good, part(rejected, i) -= fails;
        part(left, i) = fails & int64_t(q.non_finite), leaving |= fails;
      }
      return any(leaving);
    }
    for (int i = 0; i < ND; i++) part(factor, i) = q.safety * v_pow(part(square, i), all<double>(q.e0 / 2));
    if (q.e1 != 0 || q.e2 != 0) remember();
    const double eps = std::numeric_limits<double>::epsilon();
    for (int i = 0; i < ND; i++) {
      Truths good = part(square, i) <= 1, lives = part(alive, i), bad = lives & ~good;
      part(accepted, i) = lives & good, part(rejected, i) -= bad;
      Clocks f = part(factor, i), step = part(t1, i) - part(t, i), least = number<double>(good), before = part(h, i);
      f = f > least ? f : least; // NaN becomes the largest cut
      f = f < q.min_factor ? all<double>(q.min_factor) : f;
      f = f > q.max_factor ? all<double>(q.max_factor) : f;
      Clocks longer = f * step;
      longer = (good & part(clipped, i) & (before > longer)) ? before : longer;
      Clocks reach = magnitude<double>(part(t1, i)) * (5 * eps), shortest = part(spacing, i);
      Truths fails = bad & (step <= (reach > shortest ? reach : shortest));
      part(left, i) = fails & int64_t(q.too_small), leaving |= fails;
      Clocks most = longer > q.max_step ? all<double>(q.max_step) : longer;
      part(h, i) = fails ? longer : lives ? most : Clocks{};
    }
    return any(leaving);
  }
  // Lanes that have taken all the steps they may are to leave.
  bool tired(int64_t *left) {
    Truths tired{};
    for (int i = 0; i < ND; i++) {
      Truths now = part(alive, i) & (part(left, i) == 0) & (part(taken, i) >= int64_t(q.max_steps));
      part(left, i) |= now & int64_t(q.limit), tired |= now;
    }
    return any(tired);
  }
  // The factor of a controller that looks at the steps before, too.
  void remember() {
    for (int l = 0; l < W; l++) {
      double r = std::sqrt(square[l]);
      factor[l] *= std::pow(r1[l], q.e1) * std::pow(r2[l], q.e2);
      if (!std::isfinite(r)) r1[l] = r2[l] = 1;
      else if (r <= 1) r2[l] = r1[l], r1[l] = std::max(r, 1e-8);
      if (!(square[l] <= 1)) factor[l] = std::min(factor[l], q.safety);
    }
  }
  // Accepted lanes go on to where they are.
  void commit() {
    I<T> mask[NV];
    Truths every = ~Truths{};
    for (int i = 0; i < ND; i++) {
      every &= part(accepted, i);
      part(t, i) = part(accepted, i) ? part(t1, i) : part(t, i);
    }
    masks(accepted, mask);
    const V<T> *last = k(s - 1);
    if (!any(~every)) {
      std::swap(y, y1);
      if (m.fsal) std::memcpy((void *)ks, last, sizeof(V<T>) * n * NV);
      return;
    }
    for (int d = 0; d < n * NV; d += NV)
      for (int v = 0; v < NV; v++) {
        y[d + v] = pick<T>(mask[v], y1[d + v], y[d + v]);
        if (m.fsal) ks[d + v] = pick<T>(mask[v], last[d + v], ks[d + v]);
      }
  }

  // Of W lanes that have just been set (y, t, sign, stop): the slopes into k(0), and Hairer's first step into h; false in
  // `finite` where a slope is none. `end`: the last time of each.
  template <class F> void start(F f, const double *end, bool *finite) {
    const double eps = std::numeric_limits<double>::epsilon();
    for (int l = 0; l < W; l++) t1[l] = stop[l], clipped[l] = 0;
    aim_from_start();
    stage_times(0);
    f(0, times, y, k(0));
    double d0[W] = {}, d1[W] = {}, d2[W] = {}, h0[W];
    for (int l = 0; l < W; l++) {
      finite[l] = true, calls[l] = 1, h[l] = INFINITY;
      spacing[l] = std::max(1e-9 * eps * (end[l] - t[l]), m.adaptive ? q.min_step : 0.0);
      for (int d = 0; d < n; d++) {
        T slope = lane(ks, d, l);
        finite[l] &= bool(std::isfinite(slope));
        if (!m.adaptive) continue;
        T x = lane(y, d, l), unit = atol[d] + std::abs(x) * rtol[d];
        d0[l] += double(x / unit) * double(x / unit), d1[l] += double(slope / unit) * double(slope / unit);
      }
    }
    if (!m.adaptive) return;
    if (q.first_step >= 0) {
      for (int l = 0; l < W; l++) h[l] = std::max(std::min(q.first_step, q.max_step), 4 * eps * std::abs(t[l]));
      return;
    }
    for (int l = 0; l < W; l++) {
      double span = stop[l] - t[l];
      d0[l] = std::sqrt(d0[l] / n), d1[l] = std::sqrt(d1[l] / n);
      h0[l] = d0[l] > 1e-5 && d1[l] > 1e-5 ? 0.01 * d0[l] / d1[l] : 1e-6 * span;
      h0[l] = std::min(std::isnan(h0[l]) ? 0.0 : h0[l], span);
      times[l] = jumping ? T((double(low[l]) * sign[l] + h0[l]) * sign[l]) : T((t[l] + h0[l]) * sign[l]);
      for (int d = 0; d < n; d++) lane(y1, d, l) = lane(y, d, l) + T(h0[l] * sign[l]) * lane(ks, d, l);
    }
    f(0, times, y1, stage);
    for (int l = 0; l < W; l++) {
      double span = stop[l] - t[l];
      calls[l]++;
      for (int d = 0; d < n; d++) {
        T unit = atol[d] + std::abs(lane(y, d, l)) * rtol[d], x = (lane(stage, d, l) - lane(ks, d, l)) / unit;
        d2[l] += double(x) * double(x);
      }
      d2[l] = std::sqrt(d2[l] / n) / h0[l];
      double largest = std::max(d1[l], d2[l]);
      double second =
          largest <= 1e-15 ? std::max(1e-3 * h0[l], 1e-6 * span) : std::pow(0.01 / largest, 1.0 / q.error_order);
      double chosen = std::min(std::isfinite(largest) ? std::min(100 * h0[l], second) : h0[l], span);
      h[l] = std::min(std::max({chosen, q.min_step, 4 * eps * std::abs(t[l])}), q.max_step);
    }
  }
  void aim_from_start() {
    for (int l = 0; l < W && jumping; l++) {
      T from = T(t[l] * sign[l]), to = T(stop[l] * sign[l]);
      low[l] = leaves_jump[l] ? std::nextafter(from, to) : from, high[l] = to;
    }
  }
};
