for (const figure of document.querySelectorAll("figure.chart")) {
  const place = figure.querySelector(".drawing");
  const spec = JSON.parse(figure.querySelector("script").textContent);
  const actions = { export: true, source: false, compiled: false, editor: false };
  // ast: expressions are interpreted, so the page needs no right to evaluate strings.
  vegaEmbed(place, spec, { renderer: "svg", ast: true, actions }).catch((error) => {
    place.textContent += ` could not be drawn: ${error.message}`;
  });
}
