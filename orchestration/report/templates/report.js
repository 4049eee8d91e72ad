"use strict";
// The report's behaviour. Text of the data only ever enters through textContent and attributes, never as markup.
const report = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const playable = new Set(data.previews);
  const root = document.documentElement;
  const $ = (selector, from = document) => from.querySelector(selector);
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const keys = new Map();

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") element.className = value;
      else if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  function say(text) {
    const status = $("#status");
    status.textContent = text;
    clearTimeout(say.timer);
    say.timer = setTimeout(() => { status.textContent = ""; }, 2500);
  }

  function copy(text) {
    const done = () => say("Copied " + text);
    const byHand = () => { // pages on disk may be refused the clipboard API
      const area = make("textarea", { class: "hidden" });
      area.value = text;
      (document.querySelector("dialog[open]") ?? document.body).append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      done();
    };
    if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, byHand);
    else byHand();
  }

  // ---- theme -----------------------------------------------------------------------------------------------------
  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  function setTheme(theme, remember = true) {
    root.dataset.theme = theme;
    if (remember) try { localStorage.setItem("rushes-theme", theme); } catch { /* not remembered, still switched */ }
    redraw();
  }
  const switchTheme = () => setTheme(dark() ? "light" : "dark");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());

  // ---- boxes over pictures ---------------------------------------------------------------------------------------
  const boxes = $("#boxes");
  boxes.hidden = !$(".tile .boxes");
  function showBoxes(shown, remember = true) {
    root.toggleAttribute("data-no-boxes", !shown);
    boxes.setAttribute("aria-pressed", String(shown));
    if (remember) try { localStorage.setItem("rushes-boxes", shown ? "shown" : "hidden"); } catch { /* not remembered, still switched */ }
  }
  const switchBoxes = () => showBoxes(root.hasAttribute("data-no-boxes"));
  try { showBoxes(localStorage.getItem("rushes-boxes") !== "hidden", false); } catch { /* shown */ }

  // ---- charts ----------------------------------------------------------------------------------------------------
  // Bars: {x: labels | centres, width?, category?, series: [{name, role, y}], lines: [{x, label, reject}], hover: [text], range?}
  // Curves: {curves: [{name, role, x, y, dots?}], lines: [{x, label}], range, log?: steps of the ticks}
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const drawn = new Set();
  let printing = false, before = "";
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  async function loadPlotly() {
    const letters = atob($("#plotly").textContent);
    const packed = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i += 1) packed[i] = letters.charCodeAt(i);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  function draw(element) {
    const spec = data.charts[element.dataset.chart];
    const ink = colour("--ink-2"), line = colour("--line");
    const font = { family: colour("--sans"), size: 11, color: ink };
    const traces = spec.curves?.map((curve) => ({
      type: "scatter", mode: curve.dots ? "lines+markers" : "lines", name: plain(curve.name), x: curve.x, y: curve.y,
      line: { color: colour("--" + curve.role), width: 1.5 }, marker: { size: 5 }, cliponaxis: false,
      hovertemplate: plain(curve.name) + " %{y:.4~g}<br>step %{x:,}<extra></extra>",
    })) ?? spec.series.map((series) => ({
      type: "bar", name: plain(series.name), x: spec.category ? spec.x.map(plain) : spec.x, y: series.y, width: spec.width,
      marker: { color: colour("--" + series.role), line: { width: 0 } },
      hovertext: spec.hover.map(plain).map((text) => text.replace(/\n/g, "<br>")), hoverinfo: "text",
    }));
    const shapes = [], annotations = [];
    for (const mark of spec.lines ?? []) {
      if (mark.reject) shapes.push({
        type: "rect", xref: "x", yref: "paper", y0: 0, y1: 1, layer: "below", line: { width: 0 },
        x0: mark.reject === "below" ? spec.range[0] : mark.x, x1: mark.reject === "below" ? mark.x : spec.range[1],
        fillcolor: colour("--reject"),
      });
      shapes.push({ type: "line", xref: "x", yref: "paper", x0: mark.x, x1: mark.x, y0: 0, y1: 1.03,
        line: { color: colour("--ink"), width: 1.5 } });
      annotations.push({ x: mark.x, y: 1.03, xref: "x", yref: "paper", text: plain(mark.label), showarrow: false,
        yanchor: "bottom", xanchor: mark.x < (spec.range[0] + spec.range[1]) / 2 ? "left" : "right",
        xshift: mark.x < (spec.range[0] + spec.range[1]) / 2 ? -3 : 3,
        font: { ...font, color: colour("--ink") } });
    }
    const axis = { fixedrange: true, showgrid: false, zeroline: false, linecolor: line, tickcolor: line, tickfont: font };
    Plotly.react(element, traces, {
      barmode: "stack", bargap: spec.category ? 0.35 : 0, showlegend: false, font, shapes, annotations,
      // Paper is narrower than the window that the chart was laid out for.
      width: printing ? (element.closest(".wide") ? 620 : 280) : undefined, height: printing ? (element.closest(".wide") ? 250 : 190) : undefined, autosize: !printing,
      margin: { l: 40, r: 6, t: spec.lines?.length ? 22 : 8, b: 24 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      xaxis: { ...axis, range: spec.range, type: spec.category ? "category" : "linear", tickformat: spec.curves && "~s", ticks: spec.category ? "" : "outside", ticklen: 3, nticks: 7 },
      yaxis: { ...axis, showgrid: true, gridcolor: line, nticks: spec.curves ? 6 : 4, showline: false, ...(spec.curves ? { type: spec.log ? "log" : "linear", dtick: spec.log, tickformat: "~g", automargin: true } : { rangemode: "tozero", tickformat: "~s" }) },
      hovermode: spec.curves ? "x" : "closest", dragmode: false,
      hoverlabel: { bgcolor: colour("--card"), bordercolor: line, font: { ...font, size: 12, color: colour("--ink") }, align: "left" },
    }, { displayModeBar: false, responsive: true, staticPlot: false });
    drawn.add(element);
  }

  function redraw() {
    for (const element of drawn) draw(element);
  }

  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) {
      near.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "400px" });

  if ($("#plotly")) {
    requestAnimationFrame(() => setTimeout(async () => {
      await loadPlotly();
      $$("[data-chart]").forEach((element) => near.observe(element));
      root.dataset.charts = "ready";
    }));
  }

  addEventListener("beforeprint", () => {
    printing = true;
    before = root.dataset.theme ?? "";
    setTheme("light", false);
    if (window.Plotly) $$("[data-chart]").filter((element) => !drawn.has(element)).forEach(draw);
  });
  addEventListener("afterprint", () => {
    printing = false;
    if (before) setTheme(before, false);
    else { delete root.dataset.theme; redraw(); }
  });

  // ---- previews --------------------------------------------------------------------------------------------------
  let media = null;
  function player(key) {
    media ??= JSON.parse($("#previews").textContent);
    const video = make("video", { src: "data:video/mp4;base64," + media[key], "aria-label": "Preview of clip " + key });
    Object.assign(video, { muted: true, loop: true, playsInline: true });
    return video;
  }

  function stop(holder) {
    const video = $("video", holder);
    if (!video) return;
    video.pause();
    video.remove();
    holder.classList.remove("playing");
  }

  function play(holder, key) {
    if (!playable.has(key)) return false;
    $$(".playing").filter((other) => other !== holder).forEach(stop);
    if ($("video", holder)) return true;
    const video = player(key);
    holder.append(video);
    holder.classList.add("playing");
    video.play().catch(() => stop(holder));
    return true;
  }

  const toggle = (holder, key) => (holder.classList.contains("playing") ? (stop(holder), true) : play(holder, key));
  const keyOf = (element) => element?.closest("[data-key]")?.dataset.key;
  const pageOf = (element) => element.closest(".page").id;

  for (const open of $$(".tile .open")) {
    const key = keyOf(open);
    if (!playable.has(key)) continue;
    open.classList.add("has-preview");
    if (calm) continue;
    open.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") play(open, key); });
    open.addEventListener("pointerleave", () => { if (document.activeElement !== open) stop(open); });
    open.addEventListener("blur", () => stop(open));
  }

  // ---- details ---------------------------------------------------------------------------------------------------
  const detail = $("#detail"), tip = $("#tip");
  const extras = [];
  function details(key, page, fallback = {}) {
    const record = data.records[page][key] ?? fallback;
    const image = $(`#${page} .tile[data-key="${CSS.escape(key)}"] img`);
    const outlines = image && $(".boxes", image.parentElement);
    const screen = make("button", { type: "button", class: "screen", "aria-label": "Play or pause the preview" },
      image ? make("img", { src: image.src, alt: image.alt }) : make("span", { class: "blank" }, "no thumbnail"), outlines?.cloneNode(true));
    const playing = play(screen, key);
    screen.addEventListener("click", () => toggle(screen, key));
    screen.disabled = !playing;
    const fields = data.fields[page];
    const rows = (record.values ?? []).map(([value, state, place], at) => { // place: percent of all clips that lie below
      const meter = make("td", { class: "place" });
      if (place !== null && place !== undefined) {
        const needle = make("i");
        needle.style.left = place + "%";
        meter.append(make("span", { class: "meter", title: place + " % of all clips lie below" }, needle));
      }
      const { name, unit, doc, rule } = fields[at];
      return make("tr", { class: state ?? "" },
        make("th", { scope: "row", title: doc }, ...name.split(/(?<=_)/).flatMap((part) => [part, make("wbr")])),
        make("td", { class: "value" }, value ?? "–", value && unit ? make("small", {}, " " + unit) : null),
        make("td", { class: "rule" }, rule),
        meter);
    });
    const command = record.command ?? "";
    const close = make("button", { class: "close", type: "button", "aria-label": "Close" }, "×");
    close.addEventListener("click", () => detail.close());
    const side = make("div", { class: "detail-side" }, screen);
    if (!playing && record.no_preview) side.append(make("p", { class: "note" }, "No preview: " + record.no_preview));
    const facts = make("dl", { class: "facts" });
    for (const [name, value] of record.facts ?? []) {
      facts.append(make("dt", {}, name), make("dd", {}, make("bdi", {}, value)));
    }
    side.append(facts);
    for (const extra of extras) side.append(extra(key));
    detail.dataset.key = key;
    detail.dataset.page = page;
    detail.className = record.state ?? "";
    detail.replaceChildren(
      make("header", {},
        make("div", {},
          make("h2", { id: "detail-title" }, make("button", { type: "button", class: "copy", "data-copy": key, title: "Copy clip id" }, make("bdi", {}, key))),
          make("p", { class: "tile-head" }, make("span", { class: "dot" }), make("bdi", {}, record.verdict ?? ""))),
        close),
      make("div", { class: "detail-body" }, side,
        make("div", {},
          record.texts
            ? make("dl", { class: "texts" }, ...record.texts.flatMap(([name, text]) => [make("dt", {}, make("bdi", {}, name)), make("dd", {}, make("bdi", {}, text))]))
            : rows.length
            ? make("table", {}, make("thead", {}, make("tr", {}, ...["Score", "Value", "Rule", "Percentile"].map((head) => make("th", { scope: "col", class: head.toLowerCase() }, head)))), make("tbody", {}, ...rows))
            : make("p", { class: "note" }, "This clip is not in the report's sample; the command below shows all its scores."),
          command ? make("button", { type: "button", class: "command copy", "data-copy": command, title: "Copy the command" }, command) : null)));
    screen.hidden = !image && !playing;
    tip.hidden = true;
    if (!detail.open) detail.showModal();
    detail.focus();
  }
  detail.addEventListener("close", () => $$(".screen", detail).forEach(stop));
  for (const dialog of $$("dialog")) {
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }

  const quoted = (text) => (/^[\w.-]+$/.test(text) ? text : "'" + text.replaceAll("'", "'\\''") + "'"); // for a shell

  document.addEventListener("click", (event) => {
    const copied = event.target.closest("[data-copy]");
    if (copied) return copy(copied.dataset.copy);
    const open = event.target.closest(".tile .open");
    if (open) return details(keyOf(open), pageOf(open));
    const mark = event.target.closest("[data-span]");
    if (mark) details(mark.dataset.span, pageOf(mark), { state: mark.getAttribute("class"), verdict: mark.dataset.tip, command: mark.closest("[data-command]").dataset.command + " " + quoted(mark.dataset.span) });
  });

  // ---- tooltip ---------------------------------------------------------------------------------------------------
  document.addEventListener("pointermove", (event) => {
    const target = event.target.closest?.("[data-tip]");
    tip.hidden = !target;
    if (!target) return;
    tip.textContent = target.dataset.tip;
    tip.style.left = Math.max(8, Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = event.clientY + (event.clientY > innerHeight - 90 ? -tip.offsetHeight - 12 : 18) + "px";
  });

  // ---- filter ----------------------------------------------------------------------------------------------------
  const filter = $("#filter");
  const tiles = $$(".tile"), rows = $$("[data-find]:not(.tile)");
  function applyFilter() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const element of [...tiles, ...rows]) {
      const text = element.dataset.find.toLowerCase();
      element.hidden = !words.every((word) => text.includes(word));
      if (!element.hidden) shown += 1;
    }
    root.toggleAttribute("data-filtered", words.length > 0);
    for (const group of $$("[data-group]")) {
      group.hidden = words.length > 0 && !$(".tile:not([hidden]), [data-find]:not(.tile):not([hidden])", group);
    }
    $("#nothing").hidden = shown > 0 || !words.length;
    if (words.length) say(shown + " shown");
  }
  filter.addEventListener("input", applyFilter);

  // ---- keyboard --------------------------------------------------------------------------------------------------
  const visible = () => tiles.filter((tile) => !tile.hidden && tile.offsetParent).map((tile) => $(".open", tile));
  function focusOn(element) {
    if (!element) return;
    element.focus({ preventScroll: true });
    element.closest(".tile, section").scrollIntoView({ block: "center", behavior: calm ? "auto" : "smooth" });
  }
  function step(by) {
    const all = visible();
    const at = all.indexOf(document.activeElement?.closest(".tile")?.querySelector(".open"));
    if (at >= 0) return focusOn(all[Math.max(0, Math.min(all.length - 1, at + by))]);
    const middle = all.findIndex((open) => open.getBoundingClientRect().bottom > 80);
    focusOn(all[middle < 0 ? 0 : middle]);
  }
  function row(by) {
    const here = document.activeElement.getBoundingClientRect();
    const beyond = visible().filter((open) => by * (open.getBoundingClientRect().top - here.top) > 8);
    const distance = (open) => { const box = open.getBoundingClientRect(); return Math.abs(box.top - here.top) * 10 + Math.abs(box.left - here.left); };
    focusOn(beyond.sort((a, b) => distance(a) - distance(b))[0]);
  }
  const sections = $$("main section");
  function section(by) {
    const at = sections.findLastIndex((element) => element.getBoundingClientRect().top < 120);
    const target = sections[Math.max(0, Math.min(sections.length - 1, at + by))];
    target?.scrollIntoView({ behavior: calm ? "auto" : "smooth" });
  }
  const onTile = () => document.activeElement?.matches(".tile .open");
  const current = () => (detail.open ? detail.dataset.key : onTile() ? keyOf(document.activeElement) : null);

  function bind(names, label, run, when = () => true) {
    for (const name of names) keys.set(name, { run, when });
    const shown = names.map((name) => ({ " ": "space", ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" })[name] ?? name);
    if (label) $("#keys-list").append(make("dt", {}, ...shown.flatMap((name) => [make("kbd", {}, name), " "])), make("dd", {}, label));
  }
  const outside = () => !detail.open;
  function turn(by) { // the dialog leafs through the tiles in the order of the page
    const open = tiles.find((tile) => tile.dataset.key === detail.dataset.key && pageOf(tile) === detail.dataset.page);
    const all = visible(), at = all.indexOf(document.activeElement?.closest(".tile .open"));
    const from = at >= 0 ? at : all.indexOf(turn.at ?? (open && $(".open", open)));
    const next = all[Math.max(0, Math.min(all.length - 1, from + by))];
    if (!next) return;
    turn.at = next;
    details(keyOf(next), pageOf(next));
  }
  detail.addEventListener("close", () => { if (turn.at) focusOn(turn.at); turn.at = null; });
  bind(["j", "k"], "next, previous clip (also in the details)", (key) => { const by = key === "j" ? 1 : -1; detail.open ? turn(by) : step(by); });
  bind(["ArrowLeft", "ArrowRight"], "", (key) => { const by = key === "ArrowRight" ? 1 : -1; detail.open ? turn(by) : step(by); }, () => detail.open || onTile());
  bind(["ArrowUp", "ArrowDown"], "", (key) => row(key === "ArrowDown" ? 1 : -1), () => outside() && onTile());
  $("#keys-list").append(make("dt", {}, ..."←↑↓→".split("").flatMap((name) => [make("kbd", {}, name), " "])), make("dd", {}, "move between clips"));
  bind(["n", "p"], "next, previous section", (key) => section(key === "n" ? 1 : -1), outside);
  bind([" "], "play or pause the clip's preview", () => (detail.open ? toggle($(".screen", detail), detail.dataset.key) : toggle(document.activeElement, current())), () => playable.has(current()) && (onTile() || !document.activeElement?.matches("input, .copy, .close, .decide")));
  $("#keys-list").append(make("dt", {}, make("kbd", {}, "Enter")), make("dd", {}, "details of the clip"));
  bind(["c"], "copy the clip's id", () => copy(current()), current);
  bind(["/"], "filter clips", () => filter.focus(), outside);
  if (!boxes.hidden) bind(["b"], "show or hide the boxes on pictures", switchBoxes);
  bind(["t"], "dark or light", switchTheme);
  bind(["?"], "this help", () => $("#keys").showModal(), () => !$("#keys").open);

  let swallowed = false; // a space that plays must not also click the button when it is released
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && document.activeElement === filter) {
      filter.value = "";
      applyFilter();
      filter.blur();
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
    const binding = keys.get(event.key);
    if (!binding || !binding.when()) return;
    event.preventDefault();
    swallowed = event.key === " ";
    binding.run(event.key);
  });
  document.addEventListener("keyup", (event) => {
    if (event.key === " " && swallowed) event.preventDefault();
    swallowed = false;
  });
  $("#theme").addEventListener("click", switchTheme);
  boxes.addEventListener("click", switchBoxes);
  $("#help").addEventListener("click", () => $("#keys").showModal());

  // ---- contents --------------------------------------------------------------------------------------------------
  const links = new Map($$(".contents a").map((link) => [link.getAttribute("href").slice(1), link]));
  const spy = new IntersectionObserver(() => {
    const here = sections.findLast((element) => element.getBoundingClientRect().top < Math.min(200, innerHeight / 3)) ?? sections[0];
    for (const [slug, link] of links) link.toggleAttribute("aria-current", slug === here?.id);
  }, { rootMargin: "0px 0px -60% 0px", threshold: [0, 0.01, 0.5, 1] });
  sections.forEach((element) => spy.observe(element));

  return { data, make, say, bind, current, tiles, extras };
})();
