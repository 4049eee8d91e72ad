// A person's decisions: marked on the tiles or in the dialog, downloaded as overrides.csv for `rushes select`.
(() => {
  const { make, say, bind, current, tiles, extras, data } = report;
  const store = "rushes-marks:" + data.title;
  let marks = new Map();
  try { marks = new Map(JSON.parse(localStorage.getItem(store) ?? "[]")); } catch { /* starts empty */ }

  const tally = make("span");
  const download = make("button", { type: "button", class: "primary" }, "Download overrides.csv");
  const clear = make("button", { type: "button" }, "Clear");
  const bar = make("div", { class: "marks", role: "region", "aria-label": "Your decisions" }, tally, download, clear);
  bar.hidden = true;
  document.body.append(bar);

  function show() {
    for (const tile of tiles) {
      const mark = marks.get(tile.dataset.key);
      if (mark) tile.dataset.mark = mark.decision;
      else delete tile.dataset.mark;
    }
    const decided = [...marks.values()].filter((mark) => mark.decision === "keep").length;
    tally.textContent = `${decided} to keep, ${marks.size - decided} to drop`;
    bar.hidden = marks.size === 0;
    for (const button of document.querySelectorAll("#detail .decide")) {
      button.setAttribute("aria-pressed", String(marks.get(button.dataset.for)?.decision === button.dataset.decision));
    }
    try { localStorage.setItem(store, JSON.stringify([...marks])); } catch { /* lasts as long as the page */ }
  }

  function decide(key, decision) {
    if (!key) return;
    const old = marks.get(key);
    if (old?.decision === decision) marks.delete(key);
    else marks.set(key, { decision, note: old?.note ?? "" });
    say(marks.has(key) ? `Marked to ${decision}` : "Mark removed");
    show();
  }

  extras.push((key) => {
    const buttons = ["keep", "drop"].map((decision) => {
      const button = make("button", { type: "button", class: "decide " + decision, "data-for": key, "data-decision": decision }, decision === "keep" ? "Keep" : "Drop", make("kbd", {}, decision === "keep" ? "a" : "d"));
      button.addEventListener("click", () => decide(key, decision));
      return button;
    });
    const note = make("input", { type: "text", placeholder: "note for overrides.csv", "aria-label": "Note", value: marks.get(key)?.note ?? "" });
    note.addEventListener("input", () => {
      const mark = marks.get(key);
      if (mark) marks.set(key, { ...mark, note: note.value });
      show();
    });
    queueMicrotask(show);
    return make("div", { class: "decisions" }, ...buttons, note);
  });

  const cell = (text) => (/[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text);
  download.addEventListener("click", () => {
    const lines = [...marks].map(([key, mark]) => [key, mark.decision, mark.note].map(cell).join(","));
    const file = new Blob([["clip_id,decision,note", ...lines].join("\n") + "\n"], { type: "text/csv" });
    const link = make("a", { href: URL.createObjectURL(file), download: "overrides.csv" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  clear.addEventListener("click", () => { marks.clear(); show(); });
  bind(["a", "d"], "mark the clip to keep, to drop (again: unmark)", (key) => decide(current(), key === "a" ? "keep" : "drop"), () => Boolean(current()));
  show();
})();
