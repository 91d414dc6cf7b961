// The exact gradient of a recorded solve: every accepted step again, the last one first, its stages pulled back by the
// derivative's program.
#pragma once
#include "forward.hpp"

template <class T> struct Back {
  Call<T> call;
  Field derivative;    // without what the field itself computes; inputs t, y, u, g; outputs the cotangents of t, y, u
  const T *grads;      // (width, samples, size): cotangents of the observations
  T *grad_y0, *grad_u; // (samples, size), (samples, further)
  T *const *grad_leaves;
  const T *grad_states; // (steps, size): cotangents of the states where accepted steps began; null without
  const int64_t *first; // (samples): where the steps of each begin
};

// The field and its derivative at the stages of a step: what either fills is kept until the next.
template <class T, int NV> struct Stages {
  static constexpr int W = NV * LENGTH<T>;
  const Back<T> &back;
  Flow<T, NV> flow;
  Machine<T, NV> derivative;
  Memory low;
  const int n;
  const int64_t size; // of a stage's memory
  Stages(const Back<T> &b, const Program<T> &field, const Program<T> &slope, int count)
      : back(b), flow(b.call, field), derivative(slope, field.code.rows, true), low(flow.bytes() * count), n(flow.n),
        size(int64_t(field.code.rows) * NV) {}
  V<T> *memory(int i) { return (V<T> *)low.data + i * size; }
  void further(int count, int l, int64_t sample) {
    for (int i = 0; i < count; i++) flow.further(memory(i), l, sample);
  }
  // Cotangent g of the slope at stage i, which has been evaluated.
  void pull(int i, const V<T> *g) {
    derivative.low = memory(i);
    const int32_t *in = back.derivative.in + 1 + n + back.call.driven + back.call.further;
    for (int d = 0; d < n; d++)
      for (int v = 0; v < NV; v++) derivative.row(in[d])[v] = g[d * NV + v];
    derivative.run();
  }
  V<T> *of_y(int d) { return derivative.row(back.derivative.out[1 + d]); }
  V<T> *of_signal(int64_t u) { return derivative.row(back.derivative.out[1 + n + u]); }
  V<T> *of_further(int64_t u) { return derivative.row(back.derivative.out[1 + n + back.call.driven + u]); }
};

// Cotangents that the observations of one step give: of the coefficients of its polynomial (degree, n), of the states where it
// began and where it ended (n). And what its polynomial gives the slope at its end, where that is the next step's first.
template <class T> struct Observed {
  V<T> *polynomial, *began, *ended, *slope;
  bool inside = false; // whether any lies before the end
};

template <class T, int NV>
static void pull_back_chunk(const Back<T> &back, const Program<T> &field, const Program<T> &slope,
                            const Record<T> &record, int64_t from, int64_t to, Sums<T> &sums) {
  const Call<T> &c = back.call;
  Stepper<T, NV> st(c.method, c.control, int(c.size), c.rtol, c.atol);
  constexpr int W = Stepper<T, NV>::W;
  const int n = st.n, s = st.s, all = st.all_stages, degree = c.method.degree;
  const Times &time = c.times;
  st.jumping = time.jumps != nullptr;
  // Whether the slope at a step's end is the one at the start of the next, and all the polynomial asks for beyond the step:
  // then its cotangent goes to the next step, which is pulled back before, and the end is not evaluated again.
  const bool ahead = c.method.fsal && !c.method.extra && !st.jumping;
  Stages<T, NV> stages(back, field, slope, all);
  const size_t row = size_t(n) * NV;
  Memory memory(sizeof(V<T>) * (row * (all + 3 + 2 * (degree + 3)) + NV * (c.further + degree)));
  V<T> *kb = (V<T> *)memory.data, *lambda = kb + all * row, *yb = lambda + row, *g = yb + row, *powers = g + row,
       *gu = powers + size_t(degree) * NV, theta[NV];
  auto observed = [&, free = gu + c.further * NV]() mutable {
    Observed<T> x{free, free + degree * row, free + (degree + 1) * row, free + (degree + 2) * row};
    free += (degree + 3) * row;
    return x;
  };
  Observed<T> now = observed(), next = observed();
  int64_t sample[W], at[W], row_of[W], which[W], o[W], upto[W];
  alignas(64) double next_key[W], began[W], ended[W];
  int lanes[W + 1], running = 0;

  // Of steps `which` (-1: none), which began at `began`, ended at `ended` and had seen `upto` observations then.
  auto look = [&](Observed<T> &into) {
    std::memset((void *)into.polynomial, 0, (degree + 3) * row * sizeof(V<T>));
    into.inside = false;
    int count = 0;
    for (int l = 0; l < W; l++) {
      next_key[l] = ended[l];
      if (which[l] < 0) continue;
      o[l] = record.steps[which[l]].seen;
      if (o[l] >= upto[l]) continue;
      next_key[l] = time.key(sample[l])[o[l]], lanes[count++] = l;
    }
    while (count) {
      bool inside = false;
      std::memset((void *)g, 0, row * sizeof(V<T>));
      for (int j = 0; j < count; j++) {
        const int l = lanes[j];
        const T *from_row = back.grads + (o[l] * time.samples + sample[l]) * n;
        const bool ends = next_key[l] == ended[l];
        inside |= !ends;
        for (int d = 0; d < n; d++) st.lane(ends ? into.ended : g, d, l) += from_row[d];
      }
      if (inside) {
        into.inside = true;
        st.place(next_key, began, ended, theta);
        st.powers(theta, powers);
        st.gather(g, powers, into.polynomial);
        for (size_t d = 0; d < row; d++) into.began[d] += g[d];
      }
      int still = 0;
      for (int j = 0; j < count; j++) {
        const int l = lanes[j];
        const bool waits = ++o[l] < upto[l];
        next_key[l] = waits ? time.key(sample[l])[o[l]] : ended[l];
        lanes[still] = l, still += waits;
      }
      count = still;
    }
    if (!ahead || !into.inside) return;
    st.step_between(began, ended);
    st.scatter(into.polynomial, s - 1, s, into.slope);
  };
  // The slope's cotangent g at stage i is pulled back, and summed up.
  auto pull = [&](int i, const V<T> *g, auto present) {
    stages.pull(i, g);
    stages.derivative.collect(sums, nullptr);
    for (int64_t u = 0; u < c.further; u++)
      for (int v = 0; v < NV; v++) gu[u * NV + v] += stages.of_further(u)[v];
    if (!c.n_signals) return;
    st.stage_times(i);
    for (int l = 0; l < W; l++)
      if (present(l))
        stages.flow.driven_back([&](int64_t u) { return (const T *)stages.of_signal(u); }, st.times, nullptr, l);
  };
  auto nowhere = [&](int l) { which[l] = -1, began[l] = 0, ended[l] = 1; };

  // What the last step of every sample leaves, tile by tile: lambda and gu where the results will be, the rest here.
  const int64_t width = int64_t(degree + 1) * n;
  std::vector<T> kept((to - from) * width);
  std::vector<uint8_t> kept_inside(to - from);
  for (int64_t base = from; base < to; base += W) {
    int some = -1;
    for (int l = 0; l < W; l++) {
      const int64_t i = std::min(base + l, to - 1), j = i - from;
      nowhere(l), sample[l] = i;
      if (base + l >= to || record.last[j] < 0) continue;
      which[l] = record.last[j], began[l] = record.steps[which[l]].t, ended[l] = record.end[j], upto[l] = record.seen[j];
      st.sign[l] = time.sign[i], some = some < 0 ? l : some;
    }
    if (some < 0) continue;
    look(now);
    std::memset((void *)gu, 0, c.further * NV * sizeof(V<T>)), std::memcpy((void *)lambda, now.ended, row * sizeof(V<T>));
    if (ahead && now.inside) {
      for (int l = 0; l < W; l++) {
        const int there = which[l] < 0 ? some : l; // as below: does what another does, with a cotangent of 0
        const int64_t i = sample[there];
        for (int d = 0; d < n; d++) st.lane(st.y, d, l) = record.finish[(i - from) * n + d];
        st.t[l] = st.t1[l] = record.end[i - from], st.sign[l] = time.sign[i];
        stages.further(1, l, i);
      }
      st.stage_times(0);
      stages.flow.evaluate(stages.memory(0), st.times, st.y, st.k(0));
      pull(0, now.slope, [&](int l) { return which[l] >= 0; });
      for (int d = 0; d < n; d++)
        for (int v = 0; v < NV; v++) lambda[d * NV + v] += stages.of_y(d)[v];
    }
    for (int l = 0; l < W; l++) {
      if (which[l] < 0) continue;
      const int64_t i = sample[l];
      kept_inside[i - from] = now.inside;
      T *to_row = kept.data() + (i - from) * width;
      for (int64_t d = 0; d < width; d++) to_row[d] = st.lane(now.polynomial, d, l);
      for (int d = 0; d < n; d++) back.grad_y0[i * n + d] = st.lane(lambda, d, l);
      for (int64_t u = 0; u < c.further; u++) back.grad_u[i * c.further + u] = st.lane(gu, u, l);
    }
  }

  const auto order = longest_first(from, to, [&](int64_t i) { return double(c.outcome.accepted[i]); });
  int64_t free = 0;
  auto finish = [&](int64_t i, int l, int64_t seen) {
    for (int d = 0; d < n; d++) {
      T sum = l < 0 ? T(0) : st.lane(lambda, d, l);
      for (int64_t k = 0; k < seen; k++) sum += back.grads[(k * time.samples + i) * n + d];
      back.grad_y0[i * n + d] = sum;
    }
    for (int64_t u = 0; u < c.further && l >= 0; u++) back.grad_u[i * c.further + u] = st.lane(gu, u, l);
  };
  auto seat = [&](int l) {
    while (free < to - from) {
      const int64_t i = order[free++], j = i - from;
      at[l] = record.last[j];
      if (at[l] < 0) {
        finish(i, -1, record.seen[j]);
        continue;
      }
      sample[l] = i, st.alive[l] = st.YES, running++;
      row_of[l] = back.grad_states ? back.first[i] + c.outcome.accepted[i] : 0;
      st.t1[l] = record.end[j], st.sign[l] = time.sign[i];
      for (int d = 0; d < n; d++) st.lane(lambda, d, l) = back.grad_y0[i * n + d];
      for (int64_t d = 0; d < width; d++) st.lane(now.polynomial, d, l) = kept[j * width + d];
      now.inside |= kept_inside[j];
      for (int64_t u = 0; u < c.further; u++) st.lane(gu, u, l) = back.grad_u[i * c.further + u];
      stages.further(all, l, i);
      return;
    }
    st.alive[l] = 0, at[l] = -1;
    for (int64_t d = 0; d < width; d++) st.lane(now.polynomial, d, l) = 0;
  };
  now.inside = false;
  for (int l = 0; l < W; l++) seat(l);
  int used_by_step = 0; // stages that the step depends on
  for (int i = 0; i < s; i++)
    if (st.b[i] != 0) used_by_step = i + 1;
  while (running) {
    int some = 0;
    while (!st.alive[some]) some++;
    for (int l = 0; l < W; l++) {
      const int there = st.alive[l] ? l : some; // a lane without a sample does what another does, with a cotangent of 0
      const Step &step = record.steps[at[there]];
      const T *state = record.states + at[there] * n;
      for (int d = 0; d < n; d++) st.lane(st.y, d, l) = state[d];
      nowhere(l);
      if (!st.alive[l]) {
        if (sample[l] != sample[some]) stages.further(all, l, sample[l] = sample[some]);
        st.t1[l] = st.t1[some], st.sign[l] = st.sign[some];
        for (int d = 0; d < n; d++) st.lane(lambda, d, l) = 0;
      } else if ((which[l] = step.before) >= 0) {
        const Step &before = record.steps[which[l]];
        began[l] = before.t, ended[l] = step.t, upto[l] = step.seen;
        __builtin_prefetch(record.states + which[l] * n); // on its way while this one is seen to
        if (before.before >= 0) __builtin_prefetch(record.steps + before.before);
      }
      st.t[l] = step.t, st.leaves_jump[l] = step.leaves, st.meets_jump[l] = step.meets;
      st.stop[l] = st.t1[l], st.h[l] = INFINITY;
    }
    look(next);
    st.aim();
    const int used = now.inside ? (ahead ? s - 1 : all) : used_by_step;
    for (int i = 0; i < used; i++) {
      V<T> *x = st.y;
      if (i) st.combined(st.rows[i], x = st.stage);
      st.stage_times(i);
      stages.flow.evaluate(stages.memory(i), st.times, x, st.k(i));
    }
    if (now.inside) st.scatter(now.polynomial, 0, used, kb);
    else std::memset((void *)kb, 0, used * row * sizeof(V<T>));
    if (ahead && next.inside)
      for (size_t d = 0; d < row; d++) kb[d] += next.slope[d];
    for (size_t d = 0; d < row; d++) yb[d] = now.began[d] + lambda[d];
    for (int i = 0; i < used_by_step; i++)
      for (int d = 0; d < n && st.b[i] != 0; d++)
        for (int v = 0; v < NV; v++) kb[i * row + d * NV + v] += st.hv[v] * st.b[i] * lambda[d * NV + v];
    for (int i = used - 1; i >= 0; i--) {
      pull(i, kb + i * row, [&](int l) { return st.alive[l]; });
      const Weights<T> &by = st.rows[i];
      for (int d = 0; d < n; d++) {
        V<T> gx[NV];
#pragma GCC unroll 8
        for (int v = 0; v < NV; v++) yb[d * NV + v] += gx[v] = stages.of_y(d)[v];
        for (int j = 0; j < by.count; j++) {
          V<T> *into = kb + by.stage[j] * row + d * NV;
#pragma GCC unroll 8
          for (int v = 0; v < NV; v++) into[v] += by.weight[j] * st.hv[v] * gx[v];
        }
      }
    }
    for (size_t d = 0; d < row; d++) lambda[d] = yb[d] + next.ended[d];
    std::swap(now, next);
    for (int l = 0; l < W; l++) {
      if (!st.alive[l]) continue;
      const Step &step = record.steps[at[l]];
      row_of[l]--;
      for (int d = 0; d < n && back.grad_states; d++) st.lane(lambda, d, l) += back.grad_states[row_of[l] * n + d];
      st.t1[l] = step.t, at[l] = step.before;
      if (at[l] >= 0) continue;
      finish(sample[l], l, step.seen);
      running--, st.alive[l] = 0;
      seat(l);
    }
  }
}

// Adds up what every chunk found, in their order, whoever was first.
template <class T> struct Shares {
  std::vector<std::unique_ptr<Sums<T>>> of;
  Shares(int64_t count, const Code &code, const int64_t *sizes, int leaves) {
    for (int64_t i = 0; i < count; i++) of.push_back(std::make_unique<Sums<T>>(code, sizes, leaves));
  }
  void add_to(T *const *into, const int64_t *sizes) {
    for (auto &share : of) share->add_to(into, sizes);
  }
};
