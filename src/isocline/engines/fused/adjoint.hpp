// The continuous adjoint (gradients/backsolve.py has its derivation), every lane on its own: [y, a] goes backwards in
// time from observation to observation, where y is set to what was stored and a jumps; the adjoints of parameters and
// arguments, on which nothing depends, are summed up with the weights of the accepted steps. Memory does not grow with
// the number of steps.
#pragma once
#include "together.hpp"

template <class T> struct Adjoint {
  Back<T> back; // its method, control, times and outcome are those of the way back; times.keys stay the way forward's
  double *missed; // (width, samples): squares of what y misses the stored one by, in sum over the state
};

template <class T, int NV>
static void adjoint_chunk(const Adjoint<T> &job, const Program<T> &field, const Program<T> &slope, int64_t from,
                          int64_t to, Sums<T> &sums) {
  const Back<T> &back = job.back;
  const Call<T> &c = back.call;
  const int n = int(c.size);
  Stepper<T, NV> st(c.method, c.control, 2 * n, c.rtol, c.atol);
  constexpr int W = Stepper<T, NV>::W;
  const int s = st.s;
  const Times &time = c.times;
  const Control &q = c.control;
  Stages<T, NV> stages(back, field, slope, s);
  // What the derivative's program fills is kept of every stage too, until it is known whether the step is accepted.
  const int64_t high_size = int64_t(slope.code.rows - field.code.rows) * NV;
  Memory highs(sizeof(V<T>) * high_size * s), memory(sizeof(V<T>) * NV * (c.further + 1));
  V<T> *gu = (V<T> *)memory.data;
  st.jumping = time.jumps != nullptr;
  auto high = [&](int i) { return (V<T> *)highs.data + i * high_size; };
  auto f = [&](int i, const T *times, const V<T> *x, V<T> *out) {
    stages.flow.evaluate(stages.memory(i), times, x, out);
    stages.derivative.high = high(i);
    stages.pull(i, x + int64_t(n) * NV);
    for (int d = 0; d < n; d++)
      for (int v = 0; v < NV; v++) out[(n + d) * NV + v] = -stages.of_y(d)[v];
  };

  int64_t sample[W], at[W], istop[W], first_key[W];
  alignas(64) int64_t left[W];
  double size[W], end[W];
  int running = 0;
  // Backwards the clock is that of the way forward with its sign changed.
  auto next_stop = [&](int l) {
    int64_t i = sample[l];
    const double here = -st.t[l], *stops = time.stop(i), *keys = time.key(i);
    while (istop[l] >= 0 && stops[istop[l]] >= here) istop[l]--;
    double key = at[l] > 0 ? keys[at[l] - 1] : keys[0], stop = istop[l] >= 0 ? stops[istop[l]] : -INFINITY;
    bool by_stop = stop > key;
    st.stop[l] = -(by_stop ? stop : key);
    st.meets_jump[l] = stop >= key ? time.jump(i, istop[l]) : at[l] - 1 < first_key[l] && time.jump(i, -1);
  };
  // a jumps at observation `at`, y is the stored one; goes on to those before while a is zero. False at the first.
  auto jump = [&](int l, bool arrived) {
    int64_t i = sample[l];
    const double *keys = time.key(i);
    for (;; at[l]--) {
      const T *stored = c.ys + (at[l] * time.samples + i) * n, *g = back.grads + (at[l] * time.samples + i) * n;
      bool there = true;
      for (int d = 0; d < n; d++) there &= !std::isnan(stored[d]);
      if (arrived && at[l] >= first_key[l] - 1) {
        double miss = 0;
        for (int d = 0; d < n; d++) {
          double x = double(st.lane(st.y, d, l)) - double(stored[d]);
          miss += x * x;
        }
        job.missed[at[l] * time.samples + i] = miss;
      }
      if (at[l] < first_key[l]) return false;
      double most = 0;
      for (int d = 0; d < n; d++) {
        T &a = st.lane(st.y, n + d, l);
        a = T(a * size[l]) + (there ? g[d] : T(0));
        most = std::max(most, std::abs(double(a)));
      }
      size[l] = 1;
      st.t[l] = -keys[at[l]];
      if (most == 0) {
        arrived = false;
        continue;
      }
      size[l] = most;
      for (int d = 0; d < n; d++) st.lane(st.y, d, l) = stored[d], st.lane(st.y, n + d, l) = T(st.lane(st.y, n + d, l) / most);
      next_stop(l);
      return true;
    }
  };
  auto seat = [&](int l, int64_t i) {
    const double *keys = time.key(i);
    st.begin(l);
    sample[l] = i, size[l] = 1, istop[l] = time.stops_width - 1, at[l] = time.width - 1;
    while (at[l] > 0 && !(keys[at[l]] < INFINITY)) at[l]--;
    for (first_key[l] = 0; first_key[l] < time.width && keys[first_key[l]] <= keys[0];) first_key[l]++;
    st.sign[l] = -time.sign[i], st.t[l] = -keys[at[l]], end[l] = -keys[0];
    st.leaves_jump[l] = st.meets_jump[l] = false;
    for (int d = 0; d < 2 * n; d++) st.lane(st.y, d, l) = 0;
    for (int64_t u = 0; u < c.further; u++) st.lane(gu, u, l) = 0;
    stages.further(s, l, i);
    bool moves = jump(l, false);
    if (moves) {
      int64_t k = time.stops_width - 1;
      const double *stops = time.stop(i);
      while (k >= 0 && stops[k] > -st.t[l]) k--;
      st.leaves_jump[l] = k >= 0 && stops[k] == -st.t[l] && time.jump(i, k);
    }
    return moves;
  };
  auto leave = [&](int l, int64_t status) {
    int64_t i = sample[l];
    c.outcome.status[i] = status, c.outcome.accepted[i] = st.taken[l] - st.rejected[l];
    c.outcome.rejected[i] = st.rejected[l], c.outcome.evaluations[i] = st.calls[l];
    c.outcome.t[i] = st.t[l] * st.sign[l], c.outcome.h[i] = st.h[l];
    for (int d = 0; d < n; d++) {
      T sum = T(st.lane(st.y, n + d, l) * size[l]);
      for (int64_t k = 0; k < first_key[l]; k++) sum += back.grads[(k * time.samples + i) * n + d];
      back.grad_y0[i * n + d] = sum;
    }
    for (int64_t u = 0; u < c.further; u++) back.grad_u[i * c.further + u] = st.lane(gu, u, l);
  };

  // The first step of every sample, tile by tile.
  std::vector<double> first(to - from), spacing(to - from);
  std::vector<int8_t> asked(to - from);
  for (int64_t base = from; base < to; base += W) {
    bool finite[W], moves[W];
    for (int l = 0; l < W; l++) moves[l] = seat(l, std::min(base + l, to - 1));
    for (int l = 0; l < W; l++)
      if (!moves[l]) st.stop[l] = st.t[l], st.h[l] = 0;
    st.start(f, end, finite);
    for (int l = 0; l < W && base + l < to; l++) {
      int64_t i = base + l - from;
      first[i] = st.h[l], spacing[i] = st.spacing[l], asked[i] = int8_t(finite[l] ? st.calls[l] : -1);
    }
  }
  const auto order = longest_first(time, first, from, to);
  int64_t next = 0;
  auto take = [&](int l) {
    while (next < to - from) {
      const int64_t i = order[next++];
      if (!seat(l, i)) {
        leave(l, q.success);
        continue;
      }
      st.calls[l] = asked[i - from];
      if (asked[i - from] < 0) {
        st.calls[l] = 1, leave(l, q.non_finite);
        continue;
      }
      // What the programs fill at the first stage is computed again with the first step.
      st.h[l] = first[i - from], st.spacing[l] = spacing[i - from];
      st.alive[l] = st.stale[l] = st.YES, st.calls[l]--, running++;
      return;
    }
    st.rest(l), sample[l] = -1;
  };
  for (int l = 0; l < W; l++) take(l);

  const int64_t low_size = stages.size;
  V<T> weight[NV];
  while (running) {
    st.aim();
    st.refresh(f);
    st.attempt(f);
    bool leaving = st.judge(left);
    const bool some = st.any(st.accepted);
    for (int i = 0; i < s && some; i++) {
      if (st.b[i] == 0) continue;
      for (int l = 0; l < W; l++)
        ((T *)weight)[l] = st.accepted[l] ? T(-double(((T *)st.hv)[l]) * double(st.b[i]) * size[l]) : T(0);
      stages.derivative.low = stages.memory(i), stages.derivative.high = high(i);
      stages.derivative.collect(sums, weight);
      for (int64_t u = 0; u < c.further; u++)
        for (int v = 0; v < NV; v++)
          gu[u * NV + v] += pick<T>(weight[v] != 0, weight[v] * stages.of_further(u)[v], V<T>{});
      if (!c.n_signals) continue;
      st.stage_times(i);
      for (int l = 0; l < W; l++)
        if (st.accepted[l])
          stages.flow.driven_back([&](int64_t u) { return (const T *)stages.of_signal(u); }, st.times,
                                  (const T *)weight, l);
    }
    st.commit();
    if (c.method.fsal) {
      // The last stage is the next step's first, and so is what its programs filled.
      I<T> mask[NV];
      st.masks(st.accepted, mask);
      auto go_on = [&](V<T> *into, const V<T> *with, int64_t count) {
        for (int64_t i = 0; i < count; i += NV)
          for (int v = 0; v < NV; v++) into[i + v] = pick<T>(mask[v], with[i + v], into[i + v]);
      };
      go_on(stages.memory(0), stages.memory(s - 1), low_size), go_on(high(0), high(s - 1), high_size);
    }
    for (int l = 0; l < W; l++) {
      if (!st.accepted[l]) continue;
      st.stale[l] = c.method.fsal ? 0 : st.YES;
      if (!st.clipped[l]) {
        st.leaves_jump[l] = false;
        continue;
      }
      st.leaves_jump[l] = st.meets_jump[l];
      if (st.meets_jump[l]) st.stale[l] = st.YES;
      if (at[l] > 0 && st.t[l] == -time.key(sample[l])[at[l] - 1]) {
        at[l]--, st.stale[l] = st.YES;
        if (!jump(l, true)) st.alive[l] = 0, leaving = true;
      } else next_stop(l);
    }
    leaving |= st.tired(left);
    if (!leaving) continue;
    for (int l = 0; l < W; l++)
      if (sample[l] >= 0 && (left[l] || !st.alive[l]))
        leave(l, left[l] ? left[l] : q.success), running--, take(l);
  }
}

template <class T, int NV> static int adjoint(const Adjoint<T> *job, int threads) {
  try {
    const Call<T> &c = job->back.call;
    Program<T> field(c.field.code, c.leaves, c.n_leaves), slope(job->back.derivative.code, c.leaves, c.n_leaves);
    auto first = chunks(c.times.samples, NV * LENGTH<T>, c.method.adaptive);
    int64_t count = int64_t(first.size()) - 1;
    Shares<T> shares(count, slope.code, c.leaf_sizes, c.n_leaves);
    if (!in_parallel(c.back_threads(threads), count, [&](auto next) {
          for (int64_t i; (i = next()) >= 0;)
            adjoint_chunk<T, NV>(*job, field, slope, first[i], first[i + 1], *shares.of[i]);
        }))
      return -1;
    shares.add_to(job->back.grad_leaves, c.leaf_sizes);
    return 0;
  } catch (const std::bad_alloc &) { return -1; }
}
