// Draws each figure when it comes near the window, in the reader's colours, and keeps it as wide as its box allows.
(() => {
  "use strict";
  const plots = [...document.querySelectorAll("[data-figure]")];
  const figures = new Map();
  const themes = JSON.parse(document.getElementById("themes").textContent);
  const darkness = matchMedia("(prefers-color-scheme: dark)");
  const printing = matchMedia("print");
  // Without a mouse the tool bar would cover the plot for good, and a finger on a plot should scroll the page.
  const touch = matchMedia("(hover: none)").matches;
  const isDark = () => darkness.matches && !printing.matches;

  // Figures hold light colours; every text below a key that names a colour has its partner on a dark page.
  function repainted(value, inside = false) {
    if (typeof value === "string") return inside && themes.dark[value] ? themes.dark[value] : value;
    if (Array.isArray(value)) return value.map((part) => repainted(part, inside));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(
      Object.entries(value).map(([key, part]) => [key, repainted(part, inside || key.includes("color"))]),
    );
  }

  function figureOf(plot) {
    if (!figures.has(plot)) {
      const saved = JSON.parse(document.getElementById(plot.dataset.figure).textContent);
      const figure = isDark() ? repainted(saved) : saved;
      const layout = figure.layout || {};
      figure.layout = { ...layout, template: layout.template || themes.templates[isDark() ? "dark" : "light"] };
      if (touch) figure.layout.dragmode = false;
      figures.set(plot, { ...figure, width: layout.width, height: layout.height || 450 });
    }
    return figures.get(plot);
  }

  // Width as the room allows, between the least readable width and the designed one; height so that cells stay square.
  function sizeOf(plot, room) {
    const { layout, width, height } = figureOf(plot);
    const { aspect, min_width: least = 0 } = layout.meta || {};
    const fitted = Math.max(least, Math.min(room, width || 900));
    if (!aspect || !width) return { width: fitted, height };
    return { width: fitted, height: Math.round(height - (width - fitted) * aspect) };
  }

  function draw(plot, room = plot.parentElement.clientWidth) {
    const size = sizeOf(plot, room);
    plot.style.width = `${size.width}px`;
    plot.style.height = `${size.height}px`;
    if (plot.dataset.drawn) {
      if (plot.clientWidth !== plot._fullLayout.width || plot.clientHeight !== plot._fullLayout.height) {
        Plotly.relayout(plot, size);
      }
      return;
    }
    plot.dataset.drawn = "yes";
    const { data, layout, frames } = figureOf(plot);
    const config = {
      displayModeBar: touch ? false : "hover",
      displaylogo: false,
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
      typesetMath: false,
      toImageButtonOptions: { format: "svg", filename: plot.dataset.name },
    };
    Plotly.newPlot(plot, { data, layout: { ...layout, ...size }, frames, config });
    if (data.some((trace) => trace.meta && trace.meta.nodes)) {
      tell(plot);
      plot.on("plotly_click", ({ points: [point] }) => {
        if (!point.data.meta || !point.data.meta.nodes) return;
        if (plot.dataset.picked === point.text) delete plot.dataset.picked;
        else plot.dataset.picked = point.text;
        light(plot);
        tell(plot);
      });
      plot.on("plotly_sliderchange", ({ slider }) => tell(plot, slider.active));
    }
  }

  // The place of the slider at which a trace is shown.
  const stepOf = ({ layout: { sliders } }, number) =>
    sliders ? sliders[0].steps.findIndex(({ args: [{ visible }] }) => visible[number]) : 0;

  // A click on a node of a graph lights its edges, at every place of the slider; a second one puts them out.
  function light(plot) {
    const name = plot.dataset.picked;
    const ends = ({ meta }) => (meta && meta.ends) || [];
    const numbers = [...plot.data.keys()];
    const lines = numbers.filter((number) => ends(plot.data[number]).length);
    const touches = (trace) => ends(trace).includes(name) || ((trace.meta && trace.meta.readers) || []).includes(name);
    const opacity = lines.map((number) => (!name ? 0.75 : touches(plot.data[number]) ? 1 : 0.07));
    Plotly.restyle(plot, { opacity }, lines);
    const graphs = numbers.filter((number) => plot.data[number].meta && plot.data[number].meta.nodes);
    const selectedpoints = graphs.map((number) => {
      if (!name) return null;
      const { text } = plot.data[number];
      const own = lines.filter((line) => touches(plot.data[line]) && stepOf(plot, line) === stepOf(plot, number));
      const near = new Set([name, ...own.flatMap((line) => ends(plot.data[line]))]);
      return [...text.keys()].filter((place) => near.has(text[place]));
    });
    Plotly.restyle(plot, { selectedpoints }, graphs);
  }

  // Below a graph: the numbers of the node that was clicked, and the way to all that the page knows of it.
  function tell(plot, step = plot.layout.sliders ? plot.layout.sliders[0].active : 0) {
    const box = plot.parentElement, name = plot.dataset.picked;
    if (box.nextElementSibling && box.nextElementSibling.className === "picked") box.nextElementSibling.remove();
    if (!name) return;
    const shown = ({ meta }, number) => meta && meta.nodes && stepOf(plot, number) === step;
    const { text, customdata, meta } = plot.data.find(shown);
    const found = text.indexOf(name), rows = found < 0 ? [] : customdata[found][1].split("\n");
    const made = (tag, text, parent) => {
      const element = parent.appendChild(document.createElement(tag));
      element.textContent = text;
      return element;
    };
    const part = document.createElement("div");
    part.className = "picked";
    part.setAttribute("aria-live", "polite");
    const entry = document.getElementById(`head-${name.toLowerCase()}`);
    const title = made("p", "", part);
    const heading = made(entry ? "a" : "b", name, title);
    if (entry) heading.href = `#${entry.id}`;
    const said = rows.length ? ": its edges in this graph" : ": not among the edges shown";
    made("span", entry ? `${said}; the link opens all that this page knows of it` : said, title);
    box.after(part);
    if (!rows.length) return;
    const table = made("table", "", part);
    const head = made("tr", "", made("thead", "", table));
    ["edge", `score (${meta.unit})`, "patched exactly"].forEach((label, column) => {
      made("th", label, head).className = column ? "number" : "";
    });
    const body = made("tbody", "", table);
    for (const row of rows) {
      const line = made("tr", "", body);
      row.split("\t").forEach((cell, column) => { made("td", cell || "\u2013", line).className = column ? "number" : ""; });
    }
  }

  const margin = 600;
  const folded = (plot) => plot.closest("details:not([open])") !== null;
  const inReach = (plot) => plot.getBoundingClientRect().top < innerHeight + margin;
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        near.unobserve(entry.target);
        draw(entry.target);
      }
    }
  }, { rootMargin: `${margin}px 0px` });

  // Heights are known before anything is drawn, so that the page does not jump while one scrolls.
  function place(plot) {
    plot.style.height = `${sizeOf(plot, plot.parentElement.clientWidth).height}px`;
    if (inReach(plot)) draw(plot);
    else near.observe(plot);
  }
  const waitingPlots = () => plots.filter((plot) => !plot.dataset.drawn && !folded(plot));
  waitingPlots().forEach(place);
  document.addEventListener("toggle", () => waitingPlots().forEach(place), true);

  // What a link goes to is unfolded, and so is everything around it.
  function reveal() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let part = target; part; part = part.parentElement) {
      if (part.tagName === "DETAILS") part.open = true;
    }
    requestAnimationFrame(() => target.scrollIntoView());
  }
  addEventListener("hashchange", reveal);
  // A second click on the same link changes no address.
  addEventListener("click", (event) => {
    const link = event.target.closest && event.target.closest('a[href^="#"]');
    if (link && link.hash === location.hash) reveal();
    if (link && link.closest("nav") && !wide.matches) link.closest("details").open = false;
  });

  // The outline stands open beside the text where there is room for it.
  const wide = matchMedia("(min-width: 80rem)");
  const outline = document.querySelector("nav details");
  const unfold = () => { if (outline) outline.open = wide.matches; };
  unfold();
  wide.addEventListener("change", unfold);
  reveal();

  let waiting = 0;
  const drawn = () => plots.filter((plot) => plot.dataset.drawn && !folded(plot));
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { drawn().forEach((plot) => draw(plot)); waitingPlots().forEach(place); }, 100);
  });
  function again(room) {
    figures.clear();
    for (const plot of plots.filter((one) => one.dataset.drawn)) {
      Plotly.purge(plot);
      delete plot.dataset.picked;
      delete plot.dataset.drawn;
      if (!folded(plot)) draw(plot, room);
    }
  }
  darkness.addEventListener("change", () => again());
  addEventListener("beforeprint", () => { waitingPlots().forEach((plot) => draw(plot)); again(680); });
  addEventListener("afterprint", () => again());
})();
