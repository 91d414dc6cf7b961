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

template <class T, int NV>
static void pull_back_chunk(const Back<T> &back, const Program<T> &field, const Program<T> &slope,
                            const Record<T> &record, int64_t from, int64_t to, Sums<T> &sums) {
  const Call<T> &c = back.call;
  Stepper<T, NV> st(c.method, c.control, int(c.size), c.rtol, c.atol);
  constexpr int W = Stepper<T, NV>::W;
  const int n = st.n, s = st.s, all = st.all_stages;
  const Times &time = c.times;
  Stages<T, NV> stages(back, field, slope, all);
  const size_t row = size_t(n) * NV;
  const size_t degree = c.method.degree;
  Memory memory(sizeof(V<T>) * (row * (all + 3 + degree) + NV * (c.further + degree)));
  V<T> *kb = (V<T> *)memory.data, *lambda = kb + all * row, *yb = lambda + row, *g = yb + row, *gp = g + row,
       *powers = gp + degree * row, *gu = powers + degree * NV, theta[NV];
  int64_t sample[W], at[W], next = from, reach[W], o[W], row_of[W];
  alignas(64) double next_key[W]; // of the observations of a step; its end where there is none
  int lanes[W + 1];
  st.jumping = time.jumps != nullptr;
  int running = 0;
  auto finish = [&](int64_t i, int l, int64_t seen) {
    for (int d = 0; d < n; d++) {
      T sum = l < 0 ? T(0) : st.lane(lambda, d, l);
      for (int64_t k = 0; k < seen; k++) sum += back.grads[(k * time.samples + i) * n + d];
      back.grad_y0[i * n + d] = sum;
    }
    for (int64_t u = 0; u < c.further && l >= 0; u++) back.grad_u[i * c.further + u] = st.lane(gu, u, l);
  };
  auto seat = [&](int l) {
    while (next < to) {
      int64_t i = next++;
      at[l] = record.last[i - from], reach[l] = record.seen[i - from];
      if (at[l] < 0) {
        finish(i, -1, reach[l]);
        continue;
      }
      sample[l] = i, st.alive[l] = st.YES, running++;
      row_of[l] = back.grad_states ? back.first[i] + c.outcome.accepted[i] : 0;
      st.t1[l] = record.end[i - from], st.sign[l] = time.sign[i];
      for (int d = 0; d < n; d++) st.lane(lambda, d, l) = 0;
      for (int64_t u = 0; u < c.further; u++) st.lane(gu, u, l) = 0;
      stages.further(all, l, i);
      return;
    }
    st.alive[l] = 0, at[l] = -1;
  };
  for (int l = 0; l < W; l++) seat(l);
  int used_by_step = 0; // stages that the step depends on
  for (int i = 0; i < s; i++)
    if (st.b[i] != 0) used_by_step = i + 1;
  while (running) {
    int some = 0;
    while (!st.alive[some]) some++;
    int count = 0;
    bool inside = false;
    for (int l = 0; l < W; l++) {
      const int there = st.alive[l] ? l : some; // a lane without a sample does what another does, with a cotangent of 0
      const Step &step = record.steps[at[there]];
      const T *state = record.states + at[there] * n;
      for (int d = 0; d < n; d++) st.lane(st.y, d, l) = state[d];
      if (!st.alive[l]) {
        if (sample[l] != sample[some]) stages.further(all, l, sample[l] = sample[some]);
        st.t1[l] = st.t1[some], st.sign[l] = st.sign[some];
        for (int d = 0; d < n; d++) st.lane(lambda, d, l) = 0;
      }
      st.t[l] = step.t, st.leaves_jump[l] = step.leaves, st.meets_jump[l] = step.meets;
      st.stop[l] = st.t1[l], st.h[l] = INFINITY;
      o[l] = st.alive[l] ? step.seen : reach[l];
      const bool waits = o[l] < reach[l];
      next_key[l] = waits ? time.key(sample[l])[o[l]] : st.t1[l];
      inside |= next_key[l] != st.t1[l];
      lanes[count] = l, count += waits;
    }
    st.aim();
    const int used = inside ? all : used_by_step;
    for (int i = 0; i < used; i++) {
      V<T> *x = st.y;
      if (i) st.combined(st.rows[i], x = st.stage);
      st.stage_times(i);
      stages.flow.evaluate(stages.memory(i), st.times, x, st.k(i));
    }
    std::memset((void *)yb, 0, row * sizeof(V<T>));
    if (inside) std::memset((void *)gp, 0, degree * row * sizeof(V<T>));
    else std::memset((void *)kb, 0, all * row * sizeof(V<T>));
    // Observations of this step.
    while (count) {
      bool interpolated = false;
      if (inside) std::memset((void *)g, 0, row * sizeof(V<T>));
      for (int j = 0; j < count; j++) {
        const int l = lanes[j];
        const T *from_row = back.grads + (o[l] * time.samples + sample[l]) * n;
        const bool ends = next_key[l] == st.t1[l];
        interpolated |= !ends;
        for (int d = 0; d < n; d++) st.lane(ends ? lambda : g, d, l) += from_row[d];
      }
      if (interpolated) {
        st.place(next_key, theta);
        st.powers(theta, powers);
        st.gather(g, powers, gp);
        for (size_t d = 0; d < row; d++) yb[d] += g[d];
      }
      int still = 0;
      for (int j = 0; j < count; j++) {
        const int l = lanes[j];
        const bool waits = ++o[l] < reach[l];
        next_key[l] = waits ? time.key(sample[l])[o[l]] : st.t1[l];
        lanes[still] = l, still += waits;
      }
      count = still;
    }
    if (inside) st.scatter(gp, kb);
    for (size_t d = 0; d < row; d++) yb[d] += lambda[d];
    for (int i = 0; i < s; i++)
      for (int d = 0; d < n && st.b[i] != 0; d++)
        for (int v = 0; v < NV; v++) kb[i * row + d * NV + v] += st.hv[v] * st.b[i] * lambda[d * NV + v];
    for (int i = used - 1; i >= 0; i--) {
      stages.pull(i, kb + i * row);
      stages.derivative.collect(sums, nullptr);
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
      for (int64_t u = 0; u < c.further; u++)
        for (int v = 0; v < NV; v++) gu[u * NV + v] += stages.of_further(u)[v];
      if (!c.n_signals) continue;
      st.stage_times(i);
      for (int l = 0; l < W; l++)
        if (st.alive[l])
          stages.flow.driven_back([&](int64_t u) { return (const T *)stages.of_signal(u); }, st.times, nullptr, l);
    }
    std::swap(lambda, yb);
    for (int l = 0; l < W; l++) {
      if (!st.alive[l]) continue;
      const Step &step = record.steps[at[l]];
      row_of[l]--;
      for (int d = 0; d < n && back.grad_states; d++) st.lane(lambda, d, l) += back.grad_states[row_of[l] * n + d];
      st.t1[l] = step.t, reach[l] = step.seen, at[l] = step.before;
      if (at[l] >= 0) { // on its way while the other lanes are seen to
        __builtin_prefetch(record.steps + at[l]), __builtin_prefetch(record.states + at[l] * n);
        continue;
      }
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
