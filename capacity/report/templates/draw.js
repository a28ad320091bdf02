// The parts of a specification that have a width of their own.
const views = (spec) => {
  const inner = spec.vconcat ?? spec.hconcat ?? (spec.spec ? [spec.spec] : []);
  return [...(typeof spec.width === "number" ? [spec] : []), ...inner.flatMap(views)];
};
// Panels and charts below each other, legends below them: what a page takes that is narrower than the chart.
const below = { orient: "bottom", direction: "vertical", columns: 1, labelLimit: 260 };
const layout = { bottom: { direction: "vertical", anchor: "start" } };
const lines = (title) => title.match(/.{1,38}(\s|$)|\S+/g).map((line) => line.trim());
const stacked = (part) => {
  if (Array.isArray(part)) return part.map(stacked);
  if (part === null || typeof part !== "object") return part;
  const { hconcat, datasets, ...rest } = part;
  const made = Object.fromEntries(Object.entries(rest).map(([key, value]) => [key, stacked(value)]));
  if (hconcat) made.vconcat = stacked(hconcat);
  if (made.facet) made.columns = 1;
  if (made.axis !== null && typeof made.title === "string" && made.title.length > 38) made.title = lines(made.title);
  if (made.legend) Object.assign(made.legend, below);
  return datasets ? { ...made, datasets } : made;
};
const draw = async (place, spec, room) => {
  const menu = { export: true, source: false, compiled: false, editor: false };
  // ast: expressions are interpreted, so the page needs no right to evaluate strings.
  const excess = async (spec, actions) => {
    await vegaEmbed(place, spec, { renderer: "svg", ast: true, actions });
    return Math.ceil(place.querySelector("svg").getBoundingClientRect().width - room);
  };
  if ((await excess(spec, menu)) <= 0) return;
  const narrow = stacked({ ...spec, config: { ...spec.config, legend: {} } });
  narrow.config.legend.layout = layout;
  const left = await excess(narrow, false);
  for (const view of left > 0 ? views(narrow) : []) view.width = Math.max(140, view.width - left);
  if (left > 0) await excess(narrow, false);
};
for (const figure of document.querySelectorAll("figure.chart")) {
  const card = figure.querySelector(".card");
  const place = figure.querySelector(".drawing");
  const { paddingLeft, paddingRight } = getComputedStyle(card);
  const room = figure.clientWidth - parseFloat(paddingLeft) - parseFloat(paddingRight) - 2; // 2: the card's border
  draw(place, JSON.parse(figure.querySelector("script").textContent), room).catch((error) => {
    place.textContent += ` could not be drawn: ${error.message}`;
  });
}
