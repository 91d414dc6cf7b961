// The phase portrait answers: a click starts a trajectory there. `frame` tells where in the picture which values lie.
function portrait(figure) {
  const frame = JSON.parse(figure.dataset.frame), svg = figure.querySelector("svg"), says = figure.querySelector("[role=status]");
  const [random, clear] = figure.querySelectorAll("button"), colours = ["forecast", "second", "third"];
  const made = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    return element;
  };
  const { left, right, top, bottom } = frame, width = right - left, height = bottom - top;
  const layer = made("g", { fill: "none", "clip-path": "url(#portrait-frame)" }), clip = made("clipPath", { id: "portrait-frame" });
  clip.append(made("rect", { x: left, y: top, width, height }));
  svg.append(clip, layer);

  const value = ([low, high], share, log) => log ? 10 ** (low + share * (high - low)) : low + share * (high - low);
  const share = ([low, high], value, log) => ((log ? Math.log10(value) : value) - low) / (high - low);
  const place = (y) => {
    const x = left + width * share(frame.x, y[frame.axes[0]], frame.log[0]), up = bottom - height * share(frame.y, y[frame.axes[1]], frame.log[1]);
    return [x, up].map((pixel) => Math.min(Math.max(pixel, -9999), 9999).toFixed(1));
  };

  function start(x, up) {
    const y0 = [...frame.held], at = [value(frame.x, (x - left) / width, frame.log[0]), value(frame.y, (bottom - up) / height, frame.log[1])];
    frame.axes.forEach((state, i) => { y0[state] = at[i]; });
    const { ys, status } = solve(y0, Array.from({ length: 601 }, (_, i) => frame.span * i / 600));
    const points = ys.filter((y) => y.every(Number.isFinite)).map(place).filter((point) => !point.includes("NaN"));
    const colour = `var(--${colours[(layer.childElementCount / 2) % colours.length]})`;
    layer.append(
      made("path", { d: "M" + points.map((point) => point.join(" ")).join("L"), stroke: colour, "stroke-width": 2, pathLength: 1, class: "trajectory" }),
      made("circle", { cx: points[0][0], cy: points[0][1], r: 4, fill: colour }),
    );
    const text = frame.names.map((name, i) => `${name} ${Number(at[i].toPrecision(3)).toLocaleString()}`).join(", ");
    says.textContent = `From ${text}${status ? ": it runs away before the end" : ""}.`;
    clear.disabled = false;
  }

  svg.addEventListener("click", (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    if (at.x >= left && at.x <= right && at.y >= top && at.y <= bottom) start(at.x, at.y);
  });
  random.addEventListener("click", () => start(left + width * Math.random(), top + height * Math.random()));
  clear.addEventListener("click", () => {
    layer.replaceChildren();
    says.textContent = "";
    clear.disabled = true;
    random.focus();
  });
  figure.classList.add("live");
}
for (const figure of document.querySelectorAll("figure[data-frame]")) portrait(figure);
