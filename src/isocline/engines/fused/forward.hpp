// Whole solves: a lane takes the next sample as soon as its own is done. With a record for the way back.
#pragma once
#include "call.hpp"

// The field on tiles, in memory that is handed over.
template <class T, int NV> struct Flow {
  static constexpr int W = NV * LENGTH<T>;
  const Call<T> &c;
  const Field &field;
  Machine<T, NV> machine;
  const int n;
  int64_t sample[W] = {}; // what the lanes hold, for the signals

  Flow(const Call<T> &call, const Program<T> &program)
      : c(call), field(call.field), machine(program, program.code.rows, false), n(int(call.size)) {}
  size_t bytes() const { return size_t(field.code.rows) * W * sizeof(T); }

  // Into `low`, the memory: the numbers of sample i that do not change.
  void further(V<T> *low, int l, int64_t i) {
    sample[l] = i;
    for (int64_t u = 0; u < c.further; u++)
      ((T *)(low + int64_t(field.in[1 + n + c.driven + u]) * NV))[l] = c.u[i * c.further + u];
  }
  void evaluate(V<T> *low, const T *times, const V<T> *x, V<T> *out) {
    machine.low = low;
    std::memcpy((void *)machine.row(field.in[0]), times, W * sizeof(T));
    V<T> *state = machine.row(field.in[1]);
    for (int i = 0; i < n * NV; i++) state[i] = x[i];
    driven(times);
    machine.run();
    for (int i = 0; i < n; i++) {
      const V<T> *from = machine.row(field.out[i]);
      for (int v = 0; v < NV; v++) out[i * NV + v] = from[v];
    }
  }
  void driven(const T *times) {
    const int32_t *rows = field.in + 1 + n;
    for (int64_t k = 0; k < c.n_signals; rows += c.signals[k++].size)
      for (int l = 0; l < W; l++) drive(c.signals[k], times[l], l, (T *)machine.row(*rows));
  }
  void drive(const Signal<T> &signal, T t, int l, T *out) const {
    auto [piece, since] = signal.at(sample[l], t);
    const T *from = signal.coefficients + signal.first(sample[l], piece);
    for (int64_t i = 0; i < signal.size; i++) {
      T u = 0;
      for (int64_t p = signal.powers - 1; p >= 0; p--) u = u * since + from[p * signal.size + i];
      out[i * W + l] = u;
    }
  }
  // What the signals get of the cotangents of their values, of a lane whose sample is there: `rows` holds them.
  template <class Row> void driven_back(Row row, const T *times, const T *weight, int l) const {
    int64_t at = 0;
    for (int64_t k = 0; k < c.n_signals; k++) {
      const Signal<T> &signal = c.signals[k];
      auto [piece, since] = signal.at(sample[l], times[l]);
      T *into = signal.grads + signal.first(sample[l], piece);
      for (int64_t i = 0; i < signal.size; i++, at++) {
        T g = row(at)[l] * (weight ? weight[l] : T(1));
        for (int64_t p = 0; p < signal.powers; p++, g *= since) into[p * signal.size + i] += g;
      }
    }
  }
};

// The samples of a chunk, those with the most steps first: few lanes then wait at the end. How many steps may be a guess, and
// is told apart by its sixteenths.
template <class F> static std::vector<int64_t> longest_first(int64_t from, int64_t to, F steps) {
  std::vector<uint8_t> group(to - from);
  std::vector<int64_t> order(to - from);
  int64_t begins[257] = {};
  for (int64_t i = from; i < to; i++) {
    const double count = steps(i);
    const float some = count > 1 ? float(std::min(count, 65535.0)) : 1.0f; // also of what is no number
    int32_t bits;
    std::memcpy(&bits, &some, sizeof bits);
    group[i - from] = uint8_t((143 << 4) - 1 - (bits >> 19)); // 143: the exponent of 65536
    begins[group[i - from] + 1]++;
  }
  for (int g = 1; g < 256; g++) begins[g] += begins[g - 1];
  for (int64_t i = from; i < to; i++) order[begins[group[i - from]]++] = i;
  return order;
}
// By the first step of each, which says roughly how many there will be.
static std::vector<int64_t> longest_first(const Times &time, const std::vector<double> &first, int64_t from, int64_t to) {
  return longest_first(from, to, [&](int64_t i) {
    return (time.stop(i)[time.stops_width - 1] - time.key(i)[0]) / first[i - from];
  });
}

// Lanes, and what they are stepped with.
template <class T, int NV> struct Lanes {
  static constexpr int W = NV * LENGTH<T>;
  const Call<T> &c;
  Flow<T, NV> flow;
  Stepper<T, NV> st;
  Memory memory;
  V<T> *low;

  Lanes(const Call<T> &call, const Program<T> &program)
      : c(call), flow(call, program), st(call.method, call.control, int(call.size), call.rtol, call.atol),
        memory(flow.bytes()), low((V<T> *)memory.data) {
    st.jumping = call.times.jumps != nullptr;
  }
  auto field() {
    return [this](int, const T *times, const V<T> *x, V<T> *out) { flow.evaluate(low, times, x, out); };
  }
};

// How the samples of a chunk begin: the slopes, the first steps; and in which order they are seated.
template <class T, int NV> struct Beginning : Chunk<T> {
  static constexpr int W = NV * LENGTH<T>;
  std::vector<T> slopes;
  std::vector<double> first, spacing;
  std::vector<int8_t> asked;
  std::vector<int64_t> order;
  size_t next = 0;

  // Of a chunk, tile by tile, on lanes where nobody sits.
  void of(const Chunk<T> &chunk, Lanes<T, NV> &lanes) {
    Chunk<T>::operator=(chunk);
    const auto [from, to, record] = chunk;
    const Call<T> &c = lanes.c;
    const Times &time = c.times;
    Stepper<T, NV> &st = lanes.st;
    const int n = st.n;
    if (record)
      record->last.assign(to - from, -1), record->seen.assign(to - from, 0), record->end.assign(to - from, 0),
          record->finish.resize((to - from) * n);
    slopes.resize(size_t(to - from) * n), first.resize(to - from), spacing.resize(to - from), asked.resize(to - from);
    for (int64_t base = from; base < to; base += W) {
      double end[W];
      bool finite[W];
      for (int l = 0; l < W; l++) {
        int64_t i = std::min(base + l, to - 1);
        const double *stops = time.stop(i);
        st.t[l] = time.key(i)[0], st.stop[l] = stops[0], st.sign[l] = time.sign[i], end[l] = stops[time.stops_width - 1];
        st.leaves_jump[l] = time.jump(i, -1);
        for (int d = 0; d < n; d++) st.lane(st.y, d, l) = c.y0[i * n + d];
        lanes.flow.further(lanes.low, l, i);
      }
      st.start(lanes.field(), end, finite);
      for (int l = 0; l < W && base + l < to; l++) {
        int64_t i = base + l - from;
        for (int d = 0; d < n; d++) slopes[i * n + d] = st.lane(st.ks, d, l);
        first[i] = st.h[l], spacing[i] = st.spacing[l], asked[i] = int8_t(finite[l] ? st.calls[l] : -1);
      }
    }
    order = longest_first(time, first, from, to), next = 0;
  }
};

// `take` gives the next chunk, false where none is left. A lane that finds nobody to seat begins the next chunk while the others
// are at the one before: only at the last do lanes wait.
template <class T, int NV>
static void solve_chunks(const Call<T> &c, const Program<T> &program, const std::function<bool(Chunk<T> &)> &take) {
  Chunk<T> chunk;
  if (!take(chunk)) return;
  Lanes<T, NV> lanes(c, program);
  std::unique_ptr<Lanes<T, NV>> aside; // where further chunks begin
  Beginning<T, NV> begun;
  begun.of(chunk, lanes);
  Flow<T, NV> &flow = lanes.flow;
  Stepper<T, NV> &st = lanes.st;
  constexpr int W = Stepper<T, NV>::W;
  const int n = st.n;
  const Control &q = c.control;
  const Times &time = c.times;
  const bool fsal = c.method.fsal;
  auto f = lanes.field();
  auto anyone = [&] {
    while (begun.next == begun.order.size()) {
      if (!take(chunk)) return false;
      if (!aside) aside = std::make_unique<Lanes<T, NV>>(c, program);
      begun.of(chunk, *aside);
    }
    return true;
  };

  int64_t sample[W], seen[W], istop[W], last[W];
  Chunk<T> of[W];
  alignas(64) int64_t left[W], waits[W], within[W];
  alignas(64) double end[W], next_key[W];
  int running = 0;
  auto leave = [&](int l, int64_t status) {
    int64_t i = sample[l];
    c.outcome.status[i] = status, c.outcome.accepted[i] = st.taken[l] - st.rejected[l];
    c.outcome.rejected[i] = st.rejected[l], c.outcome.evaluations[i] = st.calls[l];
    c.outcome.t[i] = st.t[l] * time.sign[i], c.outcome.h[i] = st.h[l];
    for (int d = 0; d < n; d++) c.end[i * n + d] = st.lane(st.y, d, l);
    running--;
    const auto [from, to, record] = of[l];
    if (record)
      record->last[i - from] = int32_t(last[l]), record->seen[i - from] = int32_t(seen[l]),
      record->end[i - from] = st.t[l], std::copy_n(c.end + i * n, n, record->finish.data() + (i - from) * n);
  };
  auto seat = [&](int l) {
    while (anyone()) {
      const int64_t i = sample[l] = begun.order[begun.next++], at = i - begun.from;
      const double *keys = time.key(i), *stops = time.stop(i);
      st.begin(l);
      st.t[l] = keys[0], end[l] = stops[time.stops_width - 1], st.h[l] = INFINITY;
      seen[l] = 0, istop[l] = 0, last[l] = -1;
      for (int d = 0; d < n; d++) st.lane(st.y, d, l) = c.y0[i * n + d];
      for (; seen[l] < time.width && keys[seen[l]] <= st.t[l]; seen[l]++)
        for (int d = 0; d < n; d++) c.ys[(seen[l] * time.samples + i) * n + d] = c.y0[i * n + d];
      of[l] = begun, running++;
      if (st.t[l] == end[l]) {
        leave(l, q.success);
        continue;
      }
      st.calls[l] = std::abs(begun.asked[at]);
      if (begun.asked[at] < 0) {
        st.calls[l] = 1, leave(l, q.non_finite);
        continue;
      }
      for (int d = 0; d < n; d++) st.lane(st.ks, d, l) = begun.slopes[at * n + d];
      st.h[l] = begun.first[at], st.spacing[l] = begun.spacing[at], st.sign[l] = time.sign[i], st.stop[l] = stops[0];
      st.leaves_jump[l] = time.jump(i, -1), st.meets_jump[l] = time.jump(i, 0);
      next_key[l] = seen[l] < time.width ? keys[seen[l]] : INFINITY;
      flow.further(lanes.low, l, i);
      st.alive[l] = st.YES, st.stale[l] = 0;
      return;
    }
    st.rest(l), sample[l] = -1, next_key[l] = INFINITY;
    of[l] = begun, flow.sample[l] = begun.from;
  };
  for (int l = 0; l < W; l++) seat(l);

  Memory dense(sizeof(V<T>) * NV * c.method.degree * (n + 1));
  V<T> *polynomial = (V<T> *)dense.data, *powers = polynomial + int64_t(c.method.degree) * n * NV, theta[NV];
  int some_lanes[W + 1];
  while (running) {
    st.aim();
    st.refresh(f);
    st.attempt(f);
    bool leaving = st.judge(left);
    typename Stepper<T, NV>::Truths some{}, inside{};
    for (int i = 0; i < st.ND; i++) {
      some |= st.part(waits, i) = st.part(st.accepted, i) & (st.part(next_key, i) <= st.part(st.t1, i));
      inside |= st.part(within, i) = st.part(waits, i) & (st.part(next_key, i) != st.part(st.t1, i));
    }
    if (begun.record)
      for (int l = 0; l < W; l++) { // what a lane writes that did not accept is written over
        Record<T> &record = *of[l].record;
        record.reserve(1, n);
        record.steps[record.count] = {st.t[l], int32_t(last[l]), uint32_t(seen[l]), st.leaves_jump[l],
                                      st.clipped[l] && st.meets_jump[l]};
        T *state = record.states + record.count * n;
        for (int d = 0; d < n; d++) state[d] = st.lane(st.y, d, l);
        last[l] = st.accepted[l] ? record.count : last[l];
        record.count -= st.accepted[l];
      }
    if (st.any(some)) {
      const bool interpolates = st.any(inside);
      if (interpolates) {
        if (c.method.extra) {
          st.complete(f);
          for (int i = 0; i < st.ND; i++) st.part(st.calls, i) += st.part(within, i) & int64_t(c.method.extra);
        }
        st.polynomial(polynomial);
      }
      for (int count = st.list(waits, some_lanes); count;) {
        if (interpolates) {
          st.place(next_key, theta);
          st.powers(theta, powers);
          st.interpolated(polynomial, powers, st.y, st.stage);
        }
        int still = 0;
        for (int j = 0; j < count; j++) {
          const int l = some_lanes[j];
          V<T> *state = next_key[l] == st.t1[l] ? st.y1 : st.stage;
          T *to_row = c.ys + (seen[l] * time.samples + sample[l]) * n;
          for (int d = 0; d < n; d++) to_row[d] = st.lane(state, d, l);
          next_key[l] = ++seen[l] < time.width ? time.key(sample[l])[seen[l]] : INFINITY;
          some_lanes[still] = l, still += next_key[l] <= st.t1[l];
        }
        count = still;
      }
    }
    st.commit();
    typename Stepper<T, NV>::Truths stops{};
    for (int i = 0; i < st.ND; i++) stops |= st.part(st.accepted, i) & st.part(st.clipped, i);
    if (!fsal) std::memcpy(st.stale, st.accepted, sizeof st.stale);
    if (st.jumping || st.any(stops))
      for (int l = 0; l < W; l++) {
        if (!st.accepted[l]) continue;
        if (st.clipped[l]) {
          if (st.t[l] == end[l]) {
            left[l] = q.success, leaving = true, st.alive[l] = st.stale[l] = 0;
            continue;
          }
          st.leaves_jump[l] = st.meets_jump[l];
          st.stop[l] = time.stop(sample[l])[++istop[l]], st.meets_jump[l] = time.jump(sample[l], istop[l]);
        } else st.leaves_jump[l] = false;
        if (st.leaves_jump[l]) st.stale[l] = st.YES;
      }
    leaving |= st.tired(left);
    if (!leaving) continue;
    for (int l = 0; l < W; l++)
      if (sample[l] >= 0 && (left[l] || !st.alive[l])) leave(l, left[l] ? left[l] : q.success), seat(l);
  }
}
