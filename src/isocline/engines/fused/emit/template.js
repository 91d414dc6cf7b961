$about
//
//   import { field, solve } from "./model.mjs";
//   const { ys, status } = solve(y0, [0, 1, 2]);      // y0: $states numbers$u_documented; status 0: reached the end
//
// In the field, r holds a number a row: first the inputs, then what every instruction computes.

// ---- the field ------------------------------------------------------------------------------------------------------
$constants
$helpers
$field

// ---- the solver: $method, order $solver_order -------------------------------------------------------------------------
export const STATUS = { SUCCESS: 0, NON_FINITE: 1, STEP_TOO_SMALL: 3, MAX_STEPS: 4 };
const STAGES = $stages, DEGREE = $degree, FSAL = $fsal, ADAPTIVE = $adaptive, STATES = $states;
$tables
const EPS = Number.EPSILON, TINY = 2.2250738585072014e-308;
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const finite = (y) => y.every(Number.isFinite);

// y + h sum of w_j k_j, over n stages
function combine(y, k, w, n, h) {
  return y.map((start, d) => {
    let sum = 0;
    for (let j = 0; j < n; j++) if (w[j] !== 0) sum += w[j] * k[j][d];
    return start + h * sum;
  });
}

// The root mean square of x in units of the tolerance at y.
function norm(x, y, rtol, atol) {
  let sum = 0;
  for (let d = 0; d < STATES; d++) sum += (x[d] / (atol + rtol * Math.abs(y[d]))) ** 2;
  return Math.sqrt(sum / STATES);
}

// Inside the step: y + h sum of b_j(theta) k_j, the b_j polynomials in theta - center.
function inside(y, k, h, theta) {
  const x = theta - $center, weights = D.map((row) => {
    let sum = 0, power = 1, origin = 1;
    for (const coefficient of row) sum += coefficient * ((power *= x) - (origin *= -$center));
    return sum;
  });
  return combine(y, k, weights, STAGES, h);
}

// The first step: Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, II.4.
function first(t, sign, span, y, slope, rtol, atol$u_parameter) {
  const d0 = norm(y, y, rtol, atol), d1 = norm(slope, y, rtol, atol);
  let h0 = d0 > 1e-5 && d1 > 1e-5 ? 0.01 * d0 / d1 : 1e-6 * span;
  h0 = Number.isNaN(h0) ? 0 : Math.min(h0, span);
  const ahead = $f(sign * (t + h0), y.map((x, d) => x + sign * h0 * slope[d])$u_parameter);
  const d2 = norm(ahead.map((x, d) => x - slope[d]), y, rtol, atol) / h0;
  const largest = Number.isNaN(d2) ? d2 : Math.max(d1, d2);
  if (!Number.isFinite(largest)) return Math.min(h0, span);
  const second = largest <= 1e-15 ? Math.max(1e-3 * h0, 1e-6 * span) : Math.pow(0.01 / largest, 1 / $order);
  return Math.min(100 * h0, second, span);
}

// y at all ts, strictly increasing or decreasing, ts[0] the time of y0: { ys, status, t, accepted, rejected, evaluations }.
// rtol, atol: a step's error is held to atol + rtol |y|, root mean square over the states. step: instead, fixed steps of this
// length. firstStep, minStep, maxStep: of chosen steps. Beyond where it stops early, ys are NaN.
export function solve(y0, ts, options = {}) {
  const { rtol = $rtol, step = $step, firstStep = $first_step, minStep = $min_step, maxStep = $max_step, maxSteps = $max_steps$u_default } = options;
  const atol = Math.max(options.atol ?? $atol, TINY), fixed = step > 0, sign = ts.length > 1 && ts[1] < ts[0] ? -1 : 1;
  if (y0.length !== STATES) throw new RangeError("y0: " + y0.length + " numbers, expected " + STATES);
  if (!ts.length || !ts.every((t, i) => i === 0 || sign * (t - ts[i - 1]) > 0)) throw new RangeError("ts: expected times that strictly increase or decrease");
  if (!fixed && !ADAPTIVE) throw new RangeError("step: this method has no error estimate, expected a positive length");
  const ys = ts.map(() => new Array(STATES).fill(NaN)), e = [$e0, $e1, $e2];
  ys[0] = Array.from(y0);
  const out = { ys, status: STATUS.MAX_STEPS, t: 0, accepted: 0, rejected: 0, evaluations: 0 };
  // From here on a clock that runs forwards: sign * t.
  const start = $first_key, end = $last_key, least = Math.max(1e-9 * EPS * (end - start), minStep$unit);
  const longest = maxStep$unit, pace = step$unit, steps = Math.ceil((end - start) / pace * (1 - 1e-12)), k = new Array(STAGES);
  let t = start, y = Array.from(y0, (_, d) => $enter), seen = 1, h = 0, r1 = 1, r2 = 1;
  if (ts.length === 1) out.status = STATUS.SUCCESS;
  else {
    k[0] = $f(sign * t, y$u_parameter);
    out.evaluations++;
    if (!fixed && !finite(k[0])) out.status = STATUS.NON_FINITE;
    else if (!fixed && firstStep > 0) h = Math.min(firstStep$unit, longest);
    else if (!fixed) {
      h = clamp(Math.max(first(t, sign, end - t, y, k[0], rtol, atol$u_parameter), 4 * EPS * Math.abs(t)), minStep$unit, longest);
      out.evaluations++;
    }
  }
  for (let attempt = 1; attempt <= maxSteps && out.status === STATUS.MAX_STEPS; attempt++) {
    const t1 = fixed ? (attempt < steps ? start + attempt * pace : end) : Math.min(t + h, end);
    const length = t1 - t, hs = sign * length;
    let y1;
    for (let i = 1; i < STAGES; i++) {
      const stage = combine(y, k, A[i], i, hs);
      if (FSAL && i === STAGES - 1) y1 = stage;
      k[i] = $f(sign * (C[i] === 1 ? t1 : t + C[i] * length), stage$u_parameter);
    }
    if (!FSAL) y1 = combine(y, k, B, STAGES, hs);
    out.evaluations += STAGES - 1;
    if (fixed && !finite(y1)) {
      out.rejected++;
      out.status = STATUS.NON_FINITE;
      break;
    }
    if (!fixed) {
      const error = combine(new Array(STATES).fill(0), k, E, STAGES, hs);
      let square = 0;
      for (let d = 0; d < STATES; d++) square += (error[d] / (atol + rtol * Math.max(Math.abs(y[d]), Math.abs(y1[d])))) ** 2;
      square /= STATES;
      const accepted = square <= 1;
      // The controller: exponents of this step's ratio of error and tolerance, and of the two accepted before it.
      let factor = $safety * Math.pow(square, e[0] / 2);
      if (e[1] !== 0 || e[2] !== 0) {
        factor *= Math.pow(r1, e[1]) * Math.pow(r2, e[2]);
        if (!Number.isFinite(square)) r1 = r2 = 1;
        else if (accepted) [r1, r2] = [Math.max(Math.sqrt(square), 1e-8), r1];
        if (!accepted) factor = Math.min(factor, $safety);
      }
      if (!(factor > (accepted ? 1 : 0))) factor = accepted ? 1 : 0;
      h = Math.min(clamp(factor, $least, $most) * length, longest);
      if (!accepted) {
        out.rejected++;
        if (length <= Math.max(5 * EPS * Math.abs(t1), least)) out.status = STATUS.STEP_TOO_SMALL;
        continue;
      }
    }
    out.accepted++;
    for (; seen < ts.length; seen++) {
      const key = $key;
      if (key > t1) break;
      ys[seen] = (key < t1 ? inside(y, k, hs, (key - t) / length) : y1).map((x, d) => $leave);
    }
    t = t1;
    y = y1;
    k[0] = k[STAGES - 1];
    if (t === end) out.status = STATUS.SUCCESS;
    else if (!FSAL) {
      k[0] = $f(sign * t, y$u_parameter);
      out.evaluations++;
    }
  }
  out.t = $end_time;
  return out;
}
