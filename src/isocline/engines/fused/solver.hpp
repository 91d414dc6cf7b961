// Whole solves by explicit Runge–Kutta methods: every lane has its own time, step, error norm and observations, and
// takes the next sample as soon as its own is done. The formulas are the eager engine's (engines/eager/per_sample.py).
#pragma once
#include "interpreter.hpp"

#include <thread>

struct Method {
  int32_t stages, fsal, degree, adaptive;
  const double *a, *b, *c, *error; // a (stages, stages), rows below the diagonal
  const double *dense;             // (degree, stages)
  double center;
};
struct Control {
  double e0, e1, e2, safety, min_factor, max_factor, min_step, max_step, first_step;
  int32_t error_order, max_steps;
  int32_t success, limit, too_small, non_finite; // statuses
};
struct Times {
  int64_t samples, width, stops_width;
  const double *keys;  // (samples, width): observations on a clock that runs forwards, inf where padded
  const double *stops; // (samples, stops_width): times stepped to, the last one the end
  const double *sign;  // (samples): -1 where time runs backwards
};
struct Outcome {
  int64_t *status, *accepted, *rejected, *evaluations; // (samples)
  double *t, *h;                                       // where and with which step a sample stopped
};
struct Field {
  const Instruction *code;
  int32_t length, rows;
  const int32_t *picked, *in, *out;
  int32_t n_in, n_out;
};

// One accepted step of one sample; its state follows in the arena.
struct Step {
  double t, t1;
  int64_t before; // index of the step before, -1
  int32_t seen, reach;
};
template <class T> struct Record {
  std::vector<Step> steps;
  std::vector<T> states;
  std::vector<int64_t> last; // of every sample of the chunk
};
template <class T> struct Tape {
  std::vector<int64_t> first; // of the chunks
  std::vector<Record<T>> chunks;
};

template <class T> struct Call {
  Field field;
  Method method;
  Control control;
  Times times;
  Outcome outcome;
  int64_t size, further; // numbers of the state, and of the inputs beside t and y
  const T *y0, *u, *rtol, *atol;
  T *ys, *end; // (width, samples, size), (samples, size)
  const T *const *leaves;
  const int64_t *leaf_sizes;
  int32_t n_leaves;
};

// What a tile of samples works on: the program's rows, the state, the stages.
template <class T, int NV> struct Tile {
  static constexpr int L = LENGTH<T>, W = NV * L;
  const Call<T> &call;
  Program<T> program;
  Memory memory, states;
  Machine<T, NV> machine;
  int n, s;
  V<T> *y, *y1, *stage, *ks;
  T a[16 * 16], b[16], e[16], dense[16 * 32];

  Tile(const Call<T> &c, const Field &f, const T *const *leaves)
      : call(c), program(prepared<T>(f.code, f.length, f.rows, f.picked, leaves, c.n_leaves)),
        memory(size_t(f.rows) * W * sizeof(T)), states(size_t(c.size) * W * sizeof(T) * (c.method.stages + 3)),
        machine{program, (V<T> *)memory.data, nullptr, W}, n(int(c.size)), s(c.method.stages) {
    y = (V<T> *)states.data, y1 = y + n * NV, stage = y1 + n * NV, ks = stage + n * NV;
    for (int i = 0; i < s * s; i++) a[i] = T(c.method.a[i]);
    for (int i = 0; i < s; i++) b[i] = T(c.method.b[i]), e[i] = c.method.error ? T(c.method.error[i]) : T(0);
    for (int i = 0; i < s * c.method.degree; i++) dense[i] = T(c.method.dense[i]);
  }
  V<T> *k(int i) { return ks + int64_t(i) * n * NV; }
  T &lane(V<T> *x, int row, int l) { return ((T *)(x + int64_t(row) * NV))[l]; }

  // f at times t (W) of the states x, into out.
  void f(const Field &field, const T *t, const V<T> *x, V<T> *out) {
    V<T> *rows = machine.rows;
    std::memcpy((void *)(rows + int64_t(field.in[0]) * NV), t, W * sizeof(T));
    for (int i = 0; i < n; i++)
      for (int v = 0; v < NV; v++) rows[int64_t(field.in[1 + i]) * NV + v] = x[i * NV + v];
    machine.run();
    for (int i = 0; i < n; i++)
      for (int v = 0; v < NV; v++) out[i * NV + v] = rows[int64_t(field.out[i]) * NV + v];
  }
  // y + h Σ weights_j k_j
  void combined(const T *weights, int count, const V<T> *h, V<T> *out) {
    for (int i = 0; i < n; i++)
      for (int v = 0; v < NV; v++) {
        V<T> sum = V<T>{};
        for (int j = 0; j < count; j++)
          if (weights[j] != 0) sum += weights[j] * ks[(int64_t(j) * n + i) * NV + v];
        out[i * NV + v] = y[i * NV + v] + h[v] * sum;
      }
  }
  // b_i(θ), (stages) vectors
  void weights(const V<T> *theta, V<T> *out) {
    int degree = call.method.degree;
    T center = T(call.method.center);
    for (int i = 0; i < s * NV; i++) out[i] = V<T>{};
    for (int v = 0; v < NV; v++) {
      V<T> x = theta[v] - center, power = x;
      T at_start = -center, start_power = at_start;
      for (int d = 0; d < degree; d++, power *= x, start_power *= at_start)
        for (int i = 0; i < s; i++) out[i * NV + v] += dense[d * s + i] * (power - start_power);
    }
  }
  void further(const Field &field, int l, int64_t sample) {
    for (int64_t i = 0; i < call.further; i++)
      lane(machine.rows, field.in[1 + n + i], l) = call.u[sample * call.further + i];
  }
};

template <class T, int NV> static void solve_chunk(const Call<T> &c, int64_t from, int64_t to, Record<T> *record) {
  using Tiled = Tile<T, NV>;
  constexpr int W = Tiled::W;
  Tiled tile(c, c.field, c.leaves);
  const int n = tile.n, s = tile.s;
  const Control &q = c.control;
  const Times &time = c.times;
  const bool adaptive = c.method.adaptive, fsal = c.method.fsal;
  int64_t sample[W], seen[W], stop[W], taken[W], rejected[W], calls[W], last[W];
  double t[W], t1[W], h[W], r1[W], r2[W], spacing[W], ends[W];
  bool alive[W] = {}, fresh[W] = {}, accepted[W], clipped[W];
  const double eps = std::numeric_limits<double>::epsilon();
  V<T> hv[NV], tv[NV], error[NV], w[16 * NV], theta[NV];
  T *times = (T *)tv;
  int64_t next = from;
  if (record) record->last.assign(to - from, -1);

  auto leave = [&](int l, int64_t status) {
    int64_t i = sample[l];
    c.outcome.status[i] = status, c.outcome.accepted[i] = taken[l] - rejected[l], c.outcome.rejected[i] = rejected[l];
    c.outcome.evaluations[i] = calls[l], c.outcome.t[i] = t[l] * time.sign[i], c.outcome.h[i] = h[l];
    for (int d = 0; d < n; d++) c.end[i * n + d] = tile.lane(tile.y, d, l);
    if (record) record->last[i - from] = last[l];
    alive[l] = false;
  };
  auto seat = [&](int l) {
    for (; next < to; next++) {
      int64_t i = sample[l] = next;
      const double *keys = time.keys + i * time.width;
      t[l] = keys[0], ends[l] = time.stops[(i + 1) * time.stops_width - 1];
      seen[l] = 0, stop[l] = 0, taken[l] = rejected[l] = calls[l] = 0, r1[l] = r2[l] = 1, last[l] = -1, h[l] = INFINITY;
      for (int d = 0; d < n; d++) tile.lane(tile.y, d, l) = c.y0[i * n + d];
      for (; seen[l] < time.width && keys[seen[l]] <= t[l]; seen[l]++)
        for (int d = 0; d < n; d++) c.ys[(seen[l] * time.samples + i) * n + d] = c.y0[i * n + d];
      if (t[l] == ends[l]) {
        leave(l, q.success);
        continue;
      }
      tile.further(c.field, l, i);
      next++;
      return alive[l] = fresh[l] = true;
    }
    // Nobody is left: a lane that stands still, somewhere finite.
    for (int d = 0; d < n; d++) tile.lane(tile.y, d, l) = 0;
    t[l] = t1[l] = 0, h[l] = 0, sample[l] = -1;
    return false;
  };
  // The slope at the start, and the first step, of lanes that have just been seated (all lanes are computed).
  auto begin = [&]() {
    V<T> *slope = tile.stage, *probe = tile.y1;
    for (int l = 0; l < W; l++) times[l] = T(t[l] * (alive[l] ? time.sign[sample[l]] : 1));
    tile.f(c.field, times, tile.y, slope);
    double d0[W] = {}, d1[W] = {}, d2[W] = {}, h0[W], span[W];
    for (int l = 0; l < W; l++) {
      if (!fresh[l]) continue;
      double sign = time.sign[sample[l]];
      span[l] = time.stops[sample[l] * time.stops_width] - t[l];
      bool finite = true;
      for (int d = 0; d < n; d++) {
        T k = tile.lane(slope, d, l);
        tile.lane(tile.k(0), d, l) = k;
        finite &= std::isfinite(k);
        if (!adaptive) continue;
        T x = tile.lane(tile.y, d, l), unit = c.atol[d] + std::abs(x) * c.rtol[d];
        d0[l] += double(x / unit) * double(x / unit), d1[l] += double(k / unit) * double(k / unit);
      }
      calls[l]++;
      spacing[l] = std::max(1e-9 * eps * (ends[l] - t[l]), adaptive ? q.min_step : 0.0);
      if (!finite) {
        leave(l, q.non_finite), fresh[l] = false;
        continue;
      }
      if (!adaptive) continue;
      d0[l] = std::sqrt(d0[l] / n), d1[l] = std::sqrt(d1[l] / n);
      h0[l] = d0[l] > 1e-5 && d1[l] > 1e-5 ? 0.01 * d0[l] / d1[l] : 1e-6 * span[l];
      h0[l] = std::min(std::isnan(h0[l]) ? 0.0 : h0[l], span[l]);
      times[l] = T((t[l] + h0[l]) * sign);
    }
    if (!adaptive) {
      std::fill(fresh, fresh + W, false);
      return;
    }
    bool probes = q.first_step < 0;
    if (probes) {
      for (int l = 0; l < W; l++)
        for (int d = 0; d < n; d++)
          tile.lane(probe, d, l) =
              tile.lane(tile.y, d, l) + (fresh[l] ? T(h0[l] * time.sign[sample[l]]) * tile.lane(slope, d, l) : T(0));
      tile.f(c.field, times, probe, probe);
    }
    for (int l = 0; l < W; l++) {
      if (!fresh[l]) continue;
      fresh[l] = false;
      if (!probes) {
        h[l] = std::min(q.first_step, q.max_step);
        continue;
      }
      calls[l]++;
      for (int d = 0; d < n; d++) {
        T unit = c.atol[d] + std::abs(tile.lane(tile.y, d, l)) * c.rtol[d],
          x = (tile.lane(probe, d, l) - tile.lane(slope, d, l)) / unit;
        d2[l] += double(x) * double(x);
      }
      d2[l] = std::sqrt(d2[l] / n) / h0[l];
      double largest = std::max(d1[l], d2[l]);
      double second =
          largest <= 1e-15 ? std::max(1e-3 * h0[l], 1e-6 * span[l]) : std::pow(0.01 / largest, 1.0 / q.error_order);
      double chosen = std::min(std::isfinite(largest) ? std::min(100 * h0[l], second) : h0[l], span[l]);
      h[l] = std::min(std::max({chosen, q.min_step, 4 * eps * std::abs(t[l])}), q.max_step);
    }
  };
  auto fill = [&]() {
    for (bool again = true; again;) {
      again = false;
      bool any = false;
      for (int l = 0; l < W; l++)
        if (!alive[l] && next < to) any |= seat(l);
        else if (!alive[l]) seat(l);
      if (!any) break;
      begin();
      for (int l = 0; l < W; l++) again |= !alive[l] && next < to;
    }
    int count = 0;
    for (int l = 0; l < W; l++) count += alive[l];
    return count;
  };

  for (int l = 0; l < W; l++) sample[l] = -1, t[l] = t1[l] = h[l] = 0;
  int running = fill();
  while (running) {
    for (int l = 0; l < W; l++) {
      if (!alive[l]) {
        t1[l] = t[l];
        continue;
      }
      double to_stop = time.stops[sample[l] * time.stops_width + stop[l]];
      t1[l] = std::min(t[l] + h[l], to_stop);
      clipped[l] = t1[l] == to_stop;
      ((T *)hv)[l] = T((t1[l] - t[l]) * time.sign[sample[l]]);
    }
    for (int l = 0; l < W; l++)
      if (!alive[l]) ((T *)hv)[l] = 0;
    for (int i = 1; i < s; i++) {
      bool final = fsal && i == s - 1;
      for (int l = 0; l < W; l++) {
        double at = c.method.c[i] == 1 ? t1[l] : t[l] + c.method.c[i] * (t1[l] - t[l]);
        times[l] = T(alive[l] ? at * time.sign[sample[l]] : 0);
      }
      V<T> *x = final ? tile.y1 : tile.stage;
      tile.combined(tile.a + i * s, i, hv, x);
      tile.f(c.field, times, x, tile.k(i));
    }
    if (!fsal) tile.combined(tile.b, s, hv, tile.y1);
    for (int v = 0; v < NV; v++) error[v] = V<T>{};
    if (adaptive) {
      for (int d = 0; d < n; d++) {
        T atol = c.atol[d], rtol = c.rtol[d];
        for (int v = 0; v < NV; v++) {
          V<T> sum = V<T>{};
          for (int i = 0; i < s; i++)
            if (tile.e[i] != 0) sum += tile.e[i] * tile.ks[(int64_t(i) * n + d) * NV + v];
          V<T> x = magnitude<T>(tile.y[d * NV + v]), z = magnitude<T>(tile.y1[d * NV + v]);
          V<T> r = hv[v] * sum / (atol + rtol * f_maximum::at<T>(x, z));
          error[v] += r * r;
        }
      }
    }
    int pending = 0;
    bool waits[W] = {};
    int64_t reach[W];
    for (int l = 0; l < W; l++) {
      accepted[l] = false;
      if (!alive[l]) continue;
      taken[l]++, calls[l] += s - 1;
      double step = t1[l] - t[l];
      if (!adaptive) {
        bool finite = true;
        for (int d = 0; d < n; d++) finite &= bool(std::isfinite(tile.lane(tile.y1, d, l)));
        accepted[l] = finite;
        if (!finite) {
          rejected[l]++, leave(l, q.non_finite);
          continue;
        }
      } else {
        double square = double(((T *)error)[l]) / n, r = std::sqrt(square);
        accepted[l] = square <= 1;
        double factor = q.safety * std::pow(square, q.e0 / 2);
        if (q.e1 != 0 || q.e2 != 0) {
          factor *= std::pow(r1[l], q.e1) * std::pow(r2[l], q.e2);
          if (!std::isfinite(r)) r1[l] = r2[l] = 1;
          else if (accepted[l]) r2[l] = r1[l], r1[l] = std::max(r, 1e-8);
          if (!accepted[l]) factor = std::min(factor, q.safety);
        }
        double least = accepted[l] ? 1.0 : 0.0;
        factor = factor > least ? factor : least; // NaN becomes the largest cut
        factor = std::min(std::max(factor, q.min_factor), q.max_factor);
        double longer = factor * step;
        if (accepted[l] && clipped[l]) longer = std::max(h[l], longer);
        if (!accepted[l]) {
          rejected[l]++;
          if (step <= std::max(std::abs(t1[l]) * 5 * eps, spacing[l])) {
            h[l] = longer;
            leave(l, q.too_small);
            continue;
          }
        }
        h[l] = std::min(longer, q.max_step);
      }
      reach[l] = seen[l];
      if (accepted[l]) {
        const double *keys = time.keys + sample[l] * time.width;
        while (reach[l] < time.width && keys[reach[l]] <= t1[l]) reach[l]++;
        if (record) {
          record->steps.push_back({t[l], t1[l], last[l], int32_t(seen[l]), int32_t(reach[l])});
          last[l] = int64_t(record->steps.size()) - 1;
          for (int d = 0; d < n; d++) record->states.push_back(tile.lane(tile.y, d, l));
        }
        pending += waits[l] = reach[l] > seen[l];
      }
    }
    while (pending) {
      for (int l = 0; l < W; l++) {
        double key = waits[l] ? time.keys[sample[l] * time.width + seen[l]] : 0;
        ((T *)theta)[l] = waits[l] ? T((key - t[l]) / (t1[l] - t[l])) : T(0);
      }
      tile.weights(theta, w);
      for (int d = 0; d < n; d++)
        for (int v = 0; v < NV; v++) {
          V<T> sum = V<T>{};
          for (int i = 0; i < s; i++) sum += w[i * NV + v] * tile.ks[(int64_t(i) * n + d) * NV + v];
          tile.stage[d * NV + v] = tile.y[d * NV + v] + hv[v] * sum;
        }
      for (int l = 0; l < W; l++) {
        if (!waits[l]) continue;
        bool end = time.keys[sample[l] * time.width + seen[l]] == t1[l];
        T *to_row = c.ys + (seen[l] * time.samples + sample[l]) * n;
        for (int d = 0; d < n; d++) to_row[d] = tile.lane(end ? tile.y1 : tile.stage, d, l);
        if (++seen[l] == reach[l]) waits[l] = false, pending--;
      }
    }
    bool slopes = false;
    for (int l = 0; l < W; l++) {
      if (!accepted[l]) continue;
      for (int d = 0; d < n; d++) {
        tile.lane(tile.y, d, l) = tile.lane(tile.y1, d, l);
        if (fsal) tile.lane(tile.k(0), d, l) = tile.lane(tile.k(s - 1), d, l);
      }
      t[l] = t1[l];
      if (clipped[l]) stop[l] = std::min(stop[l] + 1, time.stops_width - 1);
      if (t[l] == ends[l]) leave(l, q.success);
      else slopes |= !fsal;
    }
    for (int l = 0; l < W; l++)
      if (alive[l] && taken[l] >= q.max_steps) leave(l, q.limit);
    if (slopes) {
      for (int l = 0; l < W; l++) times[l] = T(alive[l] ? t[l] * time.sign[sample[l]] : 0);
      tile.f(c.field, times, tile.y, tile.stage);
      for (int l = 0; l < W; l++)
        if (accepted[l] && alive[l]) {
          calls[l]++;
          for (int d = 0; d < n; d++) tile.lane(tile.k(0), d, l) = tile.lane(tile.stage, d, l);
        }
    }
    running = fill();
  }
}

// Chunks depend on the number of samples alone, so that results do not depend on the number of threads.
template <class T> static std::vector<int64_t> chunks(int64_t samples, int width) {
  int64_t count = std::max<int64_t>(1, std::min<int64_t>(32, samples / (8 * width))),
          per = (samples + count - 1) / count;
  std::vector<int64_t> first;
  for (int64_t i = 0; i < samples; i += per) first.push_back(i);
  first.push_back(samples);
  return first;
}
template <class F> static void in_parallel(int threads, int64_t count, F work) {
  std::vector<std::thread> others;
  int used = int(std::min<int64_t>(threads, count));
  for (int k = 1; k < used; k++)
    others.emplace_back([=] {
      for (int64_t i = k; i < count; i += used) work(i);
    });
  for (int64_t i = 0; i < count; i += std::max(1, used)) work(i);
  for (auto &other : others) other.join();
}

template <class T, int NV> static Tape<T> *solve(const Call<T> *call, int want_tape, int threads) {
  auto first = chunks<T>(call->times.samples, NV * LENGTH<T>);
  Tape<T> *tape = want_tape ? new Tape<T>{first, std::vector<Record<T>>(first.size() - 1)} : nullptr;
  in_parallel(threads, int64_t(first.size()) - 1, [&first, tape, call](int64_t i) {
    solve_chunk<T, NV>(*call, first[i], first[i + 1], tape ? &tape->chunks[i] : nullptr);
  });
  return tape;
}
