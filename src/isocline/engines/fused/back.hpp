// The exact gradient of a recorded solve: every accepted step again, the last one first, its stages pulled back by the
// derivative's program.
#pragma once
#include "solver.hpp"

template <class T> struct Back {
  Call<T> call;
  Field derivative;    // inputs t, y, u, g; outputs the cotangents of t, y, u
  const T *grads;      // (width, samples, size): cotangents of the observations
  T *grad_y0, *grad_u; // (samples, size), (samples, further)
  T *const *grad_leaves;
};

template <class T, int NV>
static void pull_back_chunk(const Back<T> &back, const Record<T> &record, int64_t from, int64_t to,
                            std::vector<std::vector<T>> &sums) {
  using Tiled = Tile<T, NV>;
  constexpr int W = Tiled::W;
  const Call<T> &c = back.call;
  Tiled tile(c, c.field, c.leaves), slope(c, back.derivative, c.leaves);
  Sums<T> collected(c.leaf_sizes, c.n_leaves);
  slope.machine.sums = &collected;
  const int n = tile.n, s = tile.s;
  const Times &time = c.times;
  const size_t row = size_t(n) * NV;
  Memory memory(sizeof(T) * W * n * (2 * s + 3));
  V<T> *x = (V<T> *)memory.data, *kb = x + s * row, *lambda = kb + s * row, *yb = lambda + row, *g = yb + row;
  int64_t sample[W], at[W], next = from;
  double t[W], t1[W];
  bool alive[W] = {};
  V<T> hv[NV], tv[NV], w[16 * NV], theta[NV];
  T *times = (T *)tv;
  int running = 0;
  auto finish = [&](int64_t i, int l, int64_t seen) {
    for (int d = 0; d < n; d++) {
      T sum = l < 0 ? T(0) : tile.lane(lambda, d, l);
      for (int64_t o = 0; o < seen; o++) sum += back.grads[(o * time.samples + i) * n + d];
      back.grad_y0[i * n + d] = sum;
    }
  };
  auto seat = [&](int l) {
    while (next < to) {
      int64_t i = next++;
      at[l] = record.last[i - from];
      if (at[l] < 0) {
        const double *keys = time.keys + i * time.width;
        int64_t seen = 0;
        while (seen < time.width && keys[seen] <= keys[0]) seen++;
        finish(i, -1, seen);
        continue;
      }
      sample[l] = i, alive[l] = true, running++;
      for (int d = 0; d < n; d++) tile.lane(lambda, d, l) = 0;
      tile.further(c.field, l, i), slope.further(back.derivative, l, i);
      return;
    }
    alive[l] = false;
  };
  for (int l = 0; l < W; l++) seat(l);
  while (running) {
    int some = 0;
    while (!alive[some]) some++;
    for (int l = 0; l < W; l++) {
      int from_lane = alive[l] ? l : some; // a lane without a sample does what another does, with a cotangent of zero
      const Step &step = record.steps[at[from_lane]];
      const T *state = record.states.data() + at[from_lane] * n;
      t[l] = step.t, t1[l] = step.t1;
      for (int d = 0; d < n; d++) tile.lane(tile.y, d, l) = state[d];
      ((T *)hv)[l] = T((t1[l] - t[l]) * time.sign[sample[from_lane]]);
      if (!alive[l]) {
        sample[l] = sample[some];
        tile.further(c.field, l, sample[l]), slope.further(back.derivative, l, sample[l]);
        for (int d = 0; d < n; d++) tile.lane(lambda, d, l) = 0;
      }
    }
    auto stage_times = [&](int i) {
      for (int l = 0; l < W; l++) {
        double ti = c.method.c[i] == 1 ? t1[l] : t[l] + c.method.c[i] * (t1[l] - t[l]);
        times[l] = T(ti * time.sign[sample[l]]);
      }
    };
    int used = 0; // stages that anything depends on
    for (int i = 0; i < s; i++)
      if (tile.b[i] != 0) used = i + 1;
    bool inside = false;
    for (int l = 0; l < W; l++) {
      const Step &step = record.steps[at[alive[l] ? l : some]];
      for (int64_t o = step.seen; alive[l] && o < step.reach; o++)
        inside |= time.keys[sample[l] * time.width + o] != step.t1;
    }
    if (inside) used = s;
    for (int i = 0; i < used; i++) {
      V<T> *xi = x + i * row;
      if (i == 0) std::memcpy((void *)xi, tile.y, row * sizeof(V<T>));
      else tile.combined(tile.a + i * s, i, hv, xi);
      stage_times(i);
      if (i + 1 < used) tile.f(c.field, times, xi, tile.k(i)); // the last slope itself is not needed
    }
    std::memset((void *)kb, 0, s * row * sizeof(V<T>));
    std::memset((void *)yb, 0, row * sizeof(V<T>));
    // Observations of this step.
    int64_t o[W], reach[W];
    int pending = 0;
    for (int l = 0; l < W; l++) {
      o[l] = reach[l] = 0;
      if (!alive[l]) continue;
      const Step &step = record.steps[at[l]];
      o[l] = step.seen, reach[l] = step.reach;
      pending += o[l] < reach[l];
    }
    while (pending) {
      pending = 0;
      bool any = false;
      for (int l = 0; l < W; l++) {
        ((T *)theta)[l] = 0;
        bool interpolated = false;
        if (o[l] < reach[l]) {
          double key = time.keys[sample[l] * time.width + o[l]];
          const T *from_row = back.grads + (o[l] * time.samples + sample[l]) * n;
          interpolated = key != t1[l];
          if (interpolated) ((T *)theta)[l] = T((key - t[l]) / (t1[l] - t[l]));
          for (int d = 0; d < n; d++) {
            if (!interpolated) tile.lane(lambda, d, l) += from_row[d];
            tile.lane(g, d, l) = interpolated ? from_row[d] : T(0);
          }
          pending += ++o[l] < reach[l];
        }
        if (!interpolated)
          for (int d = 0; d < n; d++) tile.lane(g, d, l) = 0;
        any |= interpolated;
      }
      if (!any) continue;
      tile.weights(theta, w);
      for (int d = 0; d < n; d++)
        for (int v = 0; v < NV; v++) {
          V<T> gd = g[d * NV + v];
          yb[d * NV + v] += gd;
          for (int i = 0; i < s; i++) kb[i * row + d * NV + v] += hv[v] * w[i * NV + v] * gd;
        }
    }
    for (int d = 0; d < n; d++)
      for (int v = 0; v < NV; v++) {
        V<T> l = lambda[d * NV + v];
        yb[d * NV + v] += l;
        for (int i = 0; i < s; i++)
          if (tile.b[i] != 0) kb[i * row + d * NV + v] += hv[v] * tile.b[i] * l;
      }
    for (int i = used - 1; i >= 0; i--) {
      V<T> *rows = slope.machine.rows;
      const int32_t *in = back.derivative.in, *out = back.derivative.out;
      stage_times(i);
      std::memcpy((void *)(rows + int64_t(in[0]) * NV), times, W * sizeof(T));
      for (int d = 0; d < n; d++)
        for (int v = 0; v < NV; v++) {
          rows[int64_t(in[1 + d]) * NV + v] = x[i * row + d * NV + v];
          rows[int64_t(in[1 + n + c.further + d]) * NV + v] = kb[i * row + d * NV + v];
        }
      slope.machine.run();
      for (int d = 0; d < n; d++)
        for (int v = 0; v < NV; v++) {
          V<T> gx = rows[int64_t(out[1 + d]) * NV + v], hg = hv[v] * gx;
          yb[d * NV + v] += gx;
          for (int j = 0; j < i; j++) {
            T a = tile.a[i * s + j];
            if (a != 0) kb[j * row + d * NV + v] += a * hg;
          }
        }
      for (int64_t u = 0; u < c.further; u++)
        for (int l = 0; l < W; l++)
          if (alive[l]) back.grad_u[sample[l] * c.further + u] += slope.lane(rows, out[1 + n + u], l);
    }
    std::memcpy((void *)lambda, yb, row * sizeof(V<T>));
    for (int l = 0; l < W; l++) {
      if (!alive[l]) continue;
      int64_t seen = record.steps[at[l]].seen;
      at[l] = record.steps[at[l]].before;
      if (at[l] >= 0) continue;
      finish(sample[l], l, seen);
      running--, alive[l] = false;
      seat(l);
    }
  }
  for (int i = 0; i < c.n_leaves; i++) collected.add_to(i, sums[i].data());
}

template <class T, int NV> static void pull_back(const Back<T> *back, const Tape<T> *tape, int threads) {
  int64_t count = int64_t(tape->first.size()) - 1;
  std::vector<std::vector<std::vector<T>>> sums(count);
  for (auto &chunk : sums) {
    chunk.resize(back->call.n_leaves);
    for (int i = 0; i < back->call.n_leaves; i++) chunk[i].assign(back->call.leaf_sizes[i], 0);
  }
  auto *all = &sums;
  in_parallel(threads, count, [=](int64_t i) {
    pull_back_chunk<T, NV>(*back, tape->chunks[i], tape->first[i], tape->first[i + 1], (*all)[i]);
  });
  for (auto &chunk : sums) // in their order, whoever was first
    for (int i = 0; i < back->call.n_leaves; i++)
      for (int64_t j = 0; j < back->call.leaf_sizes[i]; j++) back->grad_leaves[i][j] += chunk[i][j];
}
