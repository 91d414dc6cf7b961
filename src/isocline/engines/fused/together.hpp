// Whole solves in which all samples take the same steps, fixed ones at common times: one clock for all lanes of a tile.
// What the lanes compute is what they compute in forward.hpp and back.hpp with clocks of their own.
#pragma once
#include "back.hpp"

// Whether a solve is one, until a sample fails.
template <class T> static bool together(const Call<T> &c) {
  const Times &time = c.times;
  int64_t steps = 0;
  while (steps < time.stops_width && time.stops[steps] != time.stops[time.stops_width - 1]) steps++;
  return !c.method.adaptive && time.common && !time.jumps && time.keys[0] != time.stops[time.stops_width - 1] &&
         steps + 1 <= c.control.max_steps;
}

// The field on a tile, a memory for every stage, of which it reads y and leaves the slope: nothing is copied.
template <class T, int NV> struct Abreast {
  static constexpr int W = NV * LENGTH<T>;
  const Call<T> &c;
  Stepper<T, NV> st;
  Flow<T, NV> flow;
  const int n, s, all;
  std::vector<double> grid; // the times between which the steps lie
  Memory lows;
  V<T> *slot[33]; // of the stages, and one more
  double t, t1, sign;
  T h;
  bool timed; // whether the field, or its derivative, looks at the time
  alignas(64) T times[W];
  std::vector<T> moments, lengths; // of runs of steps: the times of the stages, the steps

  Abreast(const Call<T> &call, const Program<T> &field, const Program<T> *derivative)
      : c(call), st(c.method, c.control, int(c.size), c.rtol, c.atol), flow(call, field), n(st.n), s(st.s),
        all(st.all_stages), grid{c.times.keys[0]}, lows(apart() * (all + 1)), sign(c.times.sign[0]) {
    const int32_t now = call.field.in[0];
    timed = c.n_signals || reads(field.code, now) || (derivative && reads(derivative->code, now)) ||
            std::count(call.field.out, call.field.out + n, now);
    const double *stop = c.times.stops, end = stop[c.times.stops_width - 1];
    while (grid.back() != end) grid.push_back(*stop++);
    for (int i = 0; i <= all; i++) slot[i] = (V<T> *)((char *)lows.data + apart() * i);
  }
  // Not a multiple of a page, where a processor takes one address for another.
  size_t apart() const { return flow.bytes() + 1088; }
  int64_t steps() const { return int64_t(grid.size()) - 1; }
  void look_ahead() {
    for (int64_t step = 0; step < steps(); step++) {
      aim(step), lengths.push_back(h);
      for (int i = 0; i < s; i++) moments.push_back(stage_time(i));
    }
  }
  // Samples from `base` on: what of them does not change. Lanes too many are as the last of them.
  int seat(int64_t base, int64_t to) {
    for (int l = 0; l < W; l++)
      for (int i = 0; i <= all; i++) flow.further(slot[i], l, std::min(base + l, to - 1));
    return int(std::min<int64_t>(W, to - base));
  }
  void aim(int64_t step) {
    t = grid[step], t1 = grid[step + 1], h = T((t1 - t) * sign);
    for (int v = 0; v < NV; v++) st.hv[v] = all_lanes(h);
  }
  V<T> *state(int i) { return slot[i] + int64_t(flow.field.in[1]) * NV; }
  const V<T> *slope(int i, int d) const { return slot[i] + int64_t(flow.field.out[d]) * NV; }
  T stage_time(int i) const {
    const double x = c.method.c[i];
    return T((x == 0 ? t : x == 1 ? t1 : t + x * (t1 - t)) * sign);
  }
  // The slope of state(i) at the time of stage `as`.
  void run(int i, int as) {
    V<T> *low = flow.machine.low = slot[i];
    if (timed) {
      const V<T> now = all_lanes(stage_time(as));
      V<T> *row = low + int64_t(flow.field.in[0]) * NV;
      for (int v = 0; v < NV; v++) row[v] = now;
      if (c.n_signals) std::memcpy(times, (const void *)row, sizeof times), flow.driven(times);
    }
    flow.machine.run();
  }
  static V<T> all_lanes(T x) { return x - V<T>{}; }
  // out = y + h Σ weights_j k_j; N of them
  template <int N> void combined_of(const Weights<T> &weights, V<T> *out) {
    const V<T> *y = state(0), *from[N], step = all_lanes(h);
    for (int j = 0; j < N; j++) from[j] = slot[weights.stage[j]];
    for (int d = 0; d < n; d++, y += NV, out += NV) {
      const int64_t row = int64_t(flow.field.out[d]) * NV;
      V<T> sum[NV];
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) sum[v] = weights.weight[0] * from[0][row + v];
#pragma GCC unroll 16
      for (int j = 1; j < N; j++)
#pragma GCC unroll 16
        for (int v = 0; v < NV; v++) sum[v] += weights.weight[j] * from[j][row + v];
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) out[v] = y[v] + step * sum[v];
    }
  }
  void combined(const Weights<T> &weights, V<T> *out) {
    switch (weights.count) {
    case 1: return combined_of<1>(weights, out);
    case 2: return combined_of<2>(weights, out);
    case 3: return combined_of<3>(weights, out);
    case 4: return combined_of<4>(weights, out);
    case 5: return combined_of<5>(weights, out);
    case 6: return combined_of<6>(weights, out);
    }
    const V<T> *y = state(0);
    sums(weights, [&](int d, int v, V<T> sum) __attribute__((always_inline)) { out[d * NV + v] = y[d * NV + v] + h * sum; });
  }
  // As the stepper's, of slopes where they lie.
  template <class F> void sums(const Weights<T> &weights, F use) const {
    for (int d = 0; d < n; d++) {
      V<T> sum[NV] = {};
      for (int j = 0; j < weights.count; j++) {
        const V<T> *k = slope(weights.stage[j], d);
#pragma GCC unroll 16
        for (int v = 0; v < NV; v++) sum[v] += weights.weight[j] * k[v];
      }
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) use(d, v, sum[v]);
    }
  }
  void polynomial(V<T> *out) const {
    for (const Weights<T> &weights : st.of_dense) {
      sums(weights, [&](int d, int v, V<T> sum) __attribute__((always_inline)) { out[d * NV + v] = sum; });
      out += n * NV;
    }
  }
  void stage(int i, V<T> *x) { combined(st.rows[i], x); }
  // x_p of a time, (degree) rows
  void powers(double key, V<T> *out) const {
    V<T> theta[NV];
    for (int v = 0; v < NV; v++) theta[v] = all_lanes(T((key - t) / (t1 - t)));
    st.powers(theta, out);
  }
};

template <class T> static bool finite(const V<T> *x, int64_t count) {
  I<T> bad{};
  for (int64_t i = 0; i < count; i++) bad |= x[i] * 0 != 0;
  for (int i = 0; i < LENGTH<T>; i++)
    if (bad[i]) return false;
  return true;
}

constexpr int64_t CACHED = int64_t(8) << 20; // bytes of a record that a cache may still hold on the way back

// False where a sample fails: then each needs a clock of its own.
template <class T, int NV>
static bool solve_together(const Call<T> &c, const Program<T> &program, int64_t from, int64_t to, Record<T> *record) {
  Abreast<T, NV> f(c, program, nullptr);
  constexpr int W = NV * LENGTH<T>;
  const int n = f.n, s = f.s, all = f.all;
  const bool fsal = c.method.fsal;
  const Times &time = c.times;
  const int64_t steps = f.steps(), size = int64_t(n) * NV;
  const int degree = c.method.degree;
  const auto run = c.n_signals ? nullptr : (Steps<T>)program.code.steps;
  if (run) f.look_ahead();
  Memory memory(sizeof(V<T>) * (size * (1 + degree) + degree * NV));
  V<T> *inside = (V<T> *)memory.data, *polynomial = inside + size, *powers = polynomial + degree * size, *states = nullptr;
  const int64_t bytes = steps * size * sizeof(V<T>);
  const bool past = (time.samples + W - 1) / W * bytes > CACHED;
  if (record) record->take_tiles((to - from + W - 1) / W * bytes), states = (V<T> *)record->states;
  for (int64_t base = from; base < to; base += W) {
    const int lanes = f.seat(base, to);
    int64_t seen = 0, further = 0;
    auto observe = [&](V<T> *x) {
      T *ys = c.ys + (seen++ * time.samples + base) * n;
      for (int l = 0; l < lanes; l++)
        for (int d = 0; d < n; d++) ys[l * n + d] = f.st.lane(x, d, l);
    };
    for (int l = 0; l < W; l++)
      for (int d = 0; d < n; d++) f.st.lane(f.state(0), d, l) = c.y0[std::min(base + l, to - 1) * n + d];
    while (seen < time.width && time.keys[seen] <= f.grid[0]) observe(f.state(0));
    for (int64_t step = 0; step < steps; step++) {
      int64_t last = step; // of a run of steps that are seen at most at its end
      auto seen_before = [&](double t) { return seen < time.width && time.keys[seen] < t; };
      while (run && step && last < steps && !seen_before(f.grid[last + 1]) &&
             !(last > step && seen < time.width && time.keys[seen] == f.grid[last]))
        last++;
      if (last > step) {
        run(program.leaves.data(), f.slot[0], f.moments.data() + step * s, f.lengths.data() + step, last - step, f.state(0),
            states, past);
        if (states) states += (last - step) * size;
        if (!finite<T>(f.state(0), size)) return false;
        while (seen < time.width && time.keys[seen] == f.grid[last]) observe(f.state(0));
        if (last < steps && fsal) f.aim(last), f.run(0, 0);
        step = last - 1;
        continue;
      }
      f.aim(step);
      if (step == 0 || !fsal) f.run(0, 0);
      if (step == 0)
        for (int d = 0; d < n; d++)
          if (!finite<T>(f.slope(0, d), NV)) return false;
      for (int64_t i = 0; states && i < size; i++) store<T>(states++, f.state(0)[i], past);
      const int next = fsal ? s - 1 : all;
      for (int i = 1; i < s; i++) f.stage(i, f.state(i)), f.run(i, i);
      if (!fsal) f.combined(f.st.whole, f.state(next));
      if (step % 16 == 0 && !finite<T>(f.state(next), size)) return false; // what is not finite stays so
      if (seen < time.width && time.keys[seen] < f.t1) {
        for (int i = s; i < all; i++) f.stage(i, f.state(i)), f.run(i, i);
        further += all - s;
        f.polynomial(polynomial);
        while (seen < time.width && time.keys[seen] < f.t1) {
          f.powers(time.keys[seen], powers);
          f.st.interpolated(polynomial, powers, f.state(0), inside);
          observe(inside);
        }
      }
      while (seen < time.width && time.keys[seen] == f.t1) observe(f.state(next));
      std::swap(f.slot[0], f.slot[next]);
    }
    if (!finite<T>(f.state(0), size)) return false;
    for (int l = 0; l < lanes; l++) {
      const int64_t i = base + l;
      c.outcome.status[i] = c.control.success, c.outcome.accepted[i] = steps, c.outcome.rejected[i] = 0;
      c.outcome.evaluations[i] = 1 + steps * (s - 1) + (fsal ? 0 : steps - 1) + further;
      c.outcome.t[i] = f.grid.back() * f.sign, c.outcome.h[i] = INFINITY;
      for (int d = 0; d < n; d++) c.end[i * n + d] = f.st.lane(f.state(0), d, l);
    }
  }
  if (past) stored();
  return true;
}

template <class T, int NV>
static void pull_back_together(const Back<T> &back, const Program<T> &field, const Program<T> &slope,
                               const Record<T> &record, int64_t from, int64_t to, Sums<T> &sums) {
  const Call<T> &c = back.call;
  Abreast<T, NV> f(c, field, &slope);
  constexpr int W = NV * LENGTH<T>;
  const int n = f.n, s = f.s, all = f.all;
  const Times &time = c.times;
  const int64_t steps = f.steps(), size = int64_t(n) * NV;
  Machine<T, NV> derivative(slope, field.code.rows, true);
  const int64_t degree = c.method.degree, room = size * (3 + 2 * all + degree) + NV * (c.further + degree);
  Memory memory(sizeof(V<T>) * room);
  V<T> *lambda = (V<T> *)memory.data, *yb = lambda + size, *g = yb + size, *kb = g + size, *of_y = kb + all * size,
       *gp = of_y + all * size, *powers = gp + degree * size, *gu = powers + degree * NV;
  const int32_t *in = back.derivative.in + 1 + n + c.driven + c.further, *out = back.derivative.out + 1;
  int used_by_step = 0; // stages that the step depends on
  for (int i = 0; i < s; i++)
    if (f.st.b[i] != 0) used_by_step = i + 1;
  const auto run = c.n_signals || back.grad_states || !field.code.steps ? nullptr : (StepsBack<T>)slope.code.steps;
  if (run) f.look_ahead();
  Memory leaves(sizeof(V<T> *) * sums.lanes.size());
  V<T> **into = (V<T> **)leaves.data;
  for (size_t leaf = 0; leaf < sums.lanes.size(); leaf++) into[leaf] = sums.lanes[leaf] ? (V<T> *)sums.at(int(leaf)) : nullptr;
  int64_t first_key = 0, last_key = 0;
  while (first_key < time.width && time.keys[first_key] <= f.grid[0]) first_key++;
  while (last_key < time.width && time.keys[last_key] <= f.grid.back()) last_key++;
  for (int64_t base = from; base < to; base += W) {
    const int lanes = f.seat(base, to);
    const V<T> *states = (const V<T> *)record.states + ((base - from) / W + 1) * steps * size;
    std::memset(memory.data, 0, sizeof(V<T>) * room);
    int64_t seen = last_key;
    auto observed = [&](int64_t key, V<T> *into, bool add) {
      const T *grads = back.grads + (key * time.samples + base) * n;
      for (int l = 0; l < lanes; l++)
        for (int d = 0; d < n; d++)
          f.st.lane(into, d, l) = add ? f.st.lane(into, d, l) + grads[l * n + d] : grads[l * n + d];
    };
    for (int64_t step = steps - 1; step >= 0; step--) {
      f.aim(step);
      const int64_t end = seen;
      while (seen > first_key && time.keys[seen - 1] > f.t) seen--;
      const bool inside = seen < end && time.keys[seen] != f.t1;
      if (run && !inside) { // with the steps before it that nobody sees the end of, or looks into
        for (int64_t key = seen; key < end; key++) observed(key, lambda, true);
        int64_t first = step;
        while (first > 0 && !(seen > first_key && time.keys[seen - 1] > f.grid[first - 1])) first--;
        states -= (step - first + 1) * size;
        run(field.leaves.data(), f.slot[0], f.moments.data() + first * s, f.lengths.data() + first, step - first + 1, states, lambda,
            gu, into);
        step = first;
        continue;
      }
      const int used = inside ? all : used_by_step;
      std::memcpy((void *)f.state(0), states -= size, size * sizeof(V<T>));
      for (int64_t i = 0; i < size; i++) __builtin_prefetch(states + i - 4 * size); // they come from far away
      for (int i = 0; i < used; i++) {
        if (i) f.stage(i, f.state(i));
        f.run(i, i);
      }
      for (int64_t key = seen; key < end; key++)
        if (time.keys[key] == f.t1) observed(key, lambda, true);
      if (inside) {
        std::memset((void *)gp, 0, degree * size * sizeof(V<T>)), std::memset((void *)yb, 0, size * sizeof(V<T>));
        for (int64_t key = seen; key < end && time.keys[key] != f.t1; key++) {
          observed(key, g, false);
          f.powers(time.keys[key], powers);
          f.st.gather(g, powers, gp);
          for (int64_t d = 0; d < size; d++) yb[d] += g[d];
        }
        f.st.scatter(gp, 0, all, kb);
      }
      for (int i = used - 1; i >= 0; i--) {
        derivative.low = f.slot[i];
        const T weight = i < s ? f.h * f.st.b[i] : T(0);
        for (int d = 0; d < n; d++) {
          V<T> sum[NV] = {};
          if (inside)
            for (int v = 0; v < NV; v++) sum[v] = kb[i * size + d * NV + v];
          if (weight != 0)
#pragma GCC unroll 16
            for (int v = 0; v < NV; v++) sum[v] += weight * lambda[d * NV + v];
          for (int j = used - 1; j > i; j--) {
            const T a = f.st.a[j * all + i];
            if (a == 0) continue;
            const V<T> *gx = of_y + (j * n + d) * NV, by = f.all_lanes(a * f.h);
#pragma GCC unroll 16
            for (int v = 0; v < NV; v++) sum[v] += by * gx[v];
          }
          V<T> *into = derivative.row(in[d]);
#pragma GCC unroll 16
          for (int v = 0; v < NV; v++) into[v] = sum[v];
        }
        derivative.run();
        derivative.collect(sums, nullptr);
        for (int d = 0; d < n; d++) {
          const V<T> *from = derivative.row(out[d]);
#pragma GCC unroll 16
          for (int v = 0; v < NV; v++) of_y[(i * n + d) * NV + v] = from[v];
        }
        for (int64_t u = 0; u < c.further; u++)
          for (int v = 0; v < NV; v++) gu[u * NV + v] += derivative.row(out[n + c.driven + u])[v];
        if (!c.n_signals) continue;
        for (T &moment : f.times) moment = f.stage_time(i);
        for (int l = 0; l < lanes; l++)
          f.flow.driven_back([&](int64_t u) { return (const T *)derivative.row(out[n + u]); }, f.times, nullptr, l);
      }
      for (int d = 0; d < n; d++) {
        V<T> sum[NV];
        for (int v = 0; v < NV; v++) sum[v] = inside ? yb[d * NV + v] + lambda[d * NV + v] : lambda[d * NV + v];
        for (int i = used - 1; i >= 0; i--) {
          const V<T> *gx = of_y + (i * n + d) * NV;
#pragma GCC unroll 16
          for (int v = 0; v < NV; v++) sum[v] += gx[v];
        }
#pragma GCC unroll 16
        for (int v = 0; v < NV; v++) lambda[d * NV + v] = sum[v];
      }
      for (int l = 0; l < lanes && back.grad_states; l++)
        for (int d = 0; d < n; d++)
          f.st.lane(lambda, d, l) += back.grad_states[(back.first[base + l] + step) * n + d];
    }
    for (int l = 0; l < lanes; l++) {
      const int64_t i = base + l;
      for (int d = 0; d < n; d++) {
        T sum = f.st.lane(lambda, d, l);
        for (int64_t k = 0; k < first_key; k++) sum += back.grads[(k * time.samples + i) * n + d];
        back.grad_y0[i * n + d] = sum;
      }
      for (int64_t u = 0; u < c.further; u++) back.grad_u[i * c.further + u] = f.st.lane(gu, u, l);
    }
  }
}
