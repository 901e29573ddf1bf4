"use strict";
// Filters predictions and shows what is left: numbers, charts and the rows themselves.
// Everything from the data is set as text or as an attribute, never as markup.
(() => {
  const { sources } = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const BINS = 15;
  const BARS = 30;
  const PER_PAGE = 50;
  const BEGINNING = 300;
  const Z = 1.959964;
  const SVG = "http://www.w3.org/2000/svg";
  let source = sources[0];
  let chosenBin = null;
  let kept = []; // the rows that pass every filter
  let page = 0;

  const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
  const compact = new Intl.NumberFormat("en", { notation: "compact" });
  const number = (value, digits = 3) => value.toFixed(digits).replace("-", "−");
  const isLabelled = (row) => source.label !== null && source.label[row] >= 0;
  const isRight = (row) => source.prediction[row] === source.label[row];

  function fill(select, texts, values = texts) {
    const before = select.value;
    select.replaceChildren(
      ...texts.map((text, place) => new Option(text, values[place])),
    );
    if (values.includes(before)) select.value = before;
  }

  function element(name, attributes, ...children) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function node(name, text = "", className = "") {
    const made = document.createElement(name);
    made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function wilson(hits, size) {
    const share = hits / size;
    const middle = share + (Z * Z) / (2 * size);
    const half = Z * Math.sqrt((share * (1 - share)) / size + (Z * Z) / (4 * size * size));
    const scale = 1 + (Z * Z) / size;
    return [Math.max(0, (middle - half) / scale), Math.min(1, (middle + half) / scale)];
  }

  const binOf = (row) => Math.min(BINS - 1, Math.floor(source.confidence[row] * BINS));

  function binsOf(rows) {
    const bins = Array.from({ length: BINS }, () => ({ count: 0, confidence: 0, right: 0 }));
    for (const row of rows) {
      const bin = bins[binOf(row)];
      bin.count += 1;
      bin.confidence += source.confidence[row];
      bin.right += isRight(row) ? 1 : 0;
    }
    return bins;
  }

  // The rows that pass the filters, whichever bin is chosen.
  function filtered() {
    const label = $("label").value;
    const prediction = $("prediction").value;
    const outcome = $("outcome").value;
    const values = (source.columns || {})[$("column").value];
    const value = $("value").value;
    const low = Number($("low").value || 0);
    const high = $("high").value === "" ? 1 : Number($("high").value);
    const scores = source.scores[$("score").value];
    const [least, most] = ["least", "most"].map((id) => $(id).value);
    const words = $("search").value.trim().toLowerCase();
    if (words && source.text && !source.lower) {
      source.lower = source.text.map((text) => (text || "").toLowerCase());
    }
    const rows = [];
    for (let row = 0; row < source.confidence.length; row += 1) {
      const confidence = source.confidence[row];
      // with a bin, the fields show its rounded ends
      if (chosenBin === null && (confidence < low || confidence > high)) continue;
      if (least !== "" && scores[row] < Number(least)) continue;
      if (most !== "" && scores[row] > Number(most)) continue;
      if (label !== "" && (!isLabelled(row) || source.label[row] !== Number(label))) continue;
      if (prediction !== "" && source.prediction[row] !== Number(prediction)) continue;
      if (outcome === "unlabelled" ? isLabelled(row) : outcome !== "" && !isLabelled(row)) continue;
      if ((outcome === "correct" && !isRight(row)) || (outcome === "wrong" && isRight(row))) continue;
      if (values && value !== "" && values[row] !== value) continue;
      if (words && !(source.lower ? source.lower[row].includes(words) : false)) continue;
      rows.push(row);
    }
    return rows;
  }

  function tile(title, value, detail = "") {
    const made = document.createElement("div");
    made.append(node("dt", title), node("dd", value, "value"), node("dd", detail, "interval"));
    return made;
  }

  function showTiles(labelled, bins) {
    const count = (some) => some.length.toLocaleString("en");
    const mean = (some) => some.reduce((sum, row) => sum + source.confidence[row], 0) / some.length;
    const isPartial = labelled.length > 0 && labelled.length < kept.length;
    const known = isPartial ? `${count(labelled)} of ${count(kept)} labelled` : "";
    const only = isPartial ? ", labelled only" : "";
    const over = isPartial ? "all examples" : labelled.length ? "" : "no labels";
    const tiles = [tile("Examples", count(kept), known)];
    const confidence = kept.length ? [tile("Mean confidence", percent(mean(kept)), over)] : [];
    if (labelled.length) {
      const n = labelled.length;
      const right = labelled.filter(isRight).length;
      const error = bins.reduce((sum, bin) => sum + Math.abs(bin.confidence - bin.right), 0) / n;
      const [low, high] = wilson(right, n).map((end) => (100 * end).toFixed(1));
      tiles.push(tile("Accuracy", percent(right / n), `Wilson [${low}, ${high}]${only}`));
      tiles.push(...confidence);
      const gap = 100 * (mean(labelled) - right / n);
      // one more digit where the rounded numbers beside it differ by another one
      const [stated, correct] = [mean(labelled), right / n].map((share) => Number((100 * share).toFixed(1)));
      const digits = Number((stated - correct).toFixed(1)) === Number(gap.toFixed(1)) ? 1 : 2;
      tiles.push(tile("Calibration gap", `${gap < 0 ? "−" : "+"}${Math.abs(gap).toFixed(digits)}`, `points${only}`));
      tiles.push(tile("ECE", number(error), `${BINS} bins${only}`));
    } else tiles.push(...confidence);
    $("tiles").replaceChildren(...tiles);
  }

  const WIDTH = 320;
  const LEFT = 30;
  const RIGHT = 310;
  const across = (share) => LEFT + share * (RIGHT - LEFT);

  function axis(svg, bottom, ticks) {
    svg.append(element("path", { class: "axis", d: `M${LEFT} ${bottom}H${RIGHT}` }));
    for (const [place, text] of ticks) {
      const label = element("text", { x: place, y: bottom + 13, "text-anchor": "middle" }, text);
      svg.append(label);
    }
  }

  function drawReliability(bins, counted) {
    const bottom = 190;
    const up = (share) => bottom - share * 180;
    const svg = element("svg", { viewBox: `0 0 ${WIDTH} 290`, role: "group", "aria-label": "Reliability diagram" });
    svg.append(element("path", { class: "diagonal", d: `M${across(0)} ${up(0)}L${across(1)} ${up(1)}` }));
    for (const share of [0, 0.5, 1]) {
      svg.append(element("text", { x: LEFT - 5, y: up(share) + 3, "text-anchor": "end" }, String(share)));
    }
    axis(svg, bottom, []);
    axis(svg, 250, [0, 0.2, 0.4, 0.6, 0.8, 1].map((share) => [across(share), String(share)]));
    const most = Math.max(1, ...bins.map((bin) => bin.count));
    bins.forEach((bin, place) => {
      // a chosen bin without examples stays, so that it can be left
      if (!bin.count && place !== chosenBin) return;
      const [from, to] = [place / BINS, (place + 1) / BINS];
      const group = element("g", { class: "bin", role: "button", tabindex: "0", "data-bin": place });
      group.append(element("rect", { class: "hit", x: across(from), y: 5, width: across(1 / BINS) - LEFT, height: 245 }));
      let words = `no ${counted}`;
      if (bin.count) {
        const confidence = bin.confidence / bin.count;
        const accuracy = bin.right / bin.count;
        const [least, greatest] = wilson(bin.right, bin.count);
        if (confidence < least || confidence > greatest) group.classList.add("off");
        const height = (45 * bin.count) / most;
        const x = across(confidence), of = bin.count === 1 ? counted.replace(/s$/, "") : counted;
        words = `${bin.count} ${of}, accuracy ${accuracy.toFixed(2)}`;
        group.append(
          element("path", { class: "interval-line", d: `M${x} ${up(least)}V${up(greatest)}` }),
          element("circle", { class: "dot", cx: x, cy: up(accuracy), r: 3.5 }),
          element("rect", { class: "count", x: across(from) + 1, y: 250 - height, width: across(1 / BINS) - LEFT - 2, height }),
          element("title", {}, `${bin.count} ${of}, accuracy ${accuracy.toFixed(3)}`),
        );
      }
      group.setAttribute("aria-label", `Confidence ${from.toFixed(2)} to ${to.toFixed(2)}: ${words}`);
      group.setAttribute("aria-pressed", String(place === chosenBin));
      const choose = () => chooseBin(place);
      group.addEventListener("click", choose);
      group.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        choose();
      });
      svg.append(group);
    });
    svg.append(
      element("text", { x: LEFT + 4, y: 14 }, "accuracy"),
      element("text", { x: LEFT + 4, y: 212 }, counted),
      element("text", { x: across(0.5), y: 284, "text-anchor": "middle" }, "confidence"),
    );
    const focused = $("reliability").contains(document.activeElement) ? document.activeElement.dataset.bin : undefined;
    $("reliability").replaceChildren(svg);
    if (focused !== undefined) focusBin(Number(focused));
    $("bin-hint").textContent = chosenBin === null ? "Click a bin to see its examples." : "Click again to see all.";
  }

  // Focus the bin, or the nearest one that is drawn, so that the next Tab goes on from there.
  function focusBin(place) {
    const distance = (bin) => Math.abs(Number(bin.dataset.bin) - place);
    const [nearest] = [...$("reliability").querySelectorAll(".bin")].sort((one, other) => distance(one) - distance(other));
    (nearest || $("reliability")).focus({ preventScroll: true });
  }

  // Show the examples of a bin; choose it again to show all.
  function chooseBin(place) {
    chosenBin = place === chosenBin ? null : place;
    const [low, high] = chosenBin === null ? [0, 1] : [place / BINS, (place + 1) / BINS];
    $("low").value = Number(low.toFixed(3));
    $("high").value = Number(high.toFixed(3));
    update();
  }

  function drawHistogram() {
    const values = source.scores[$("score").value];
    const bottom = 230;
    const svg = element("svg", { viewBox: `0 0 ${WIDTH} 270`, role: "img" });
    let [least, greatest] = [Infinity, -Infinity];
    for (const row of kept) {
      least = Math.min(least, values[row]);
      greatest = Math.max(greatest, values[row]);
    }
    const right = new Array(BARS).fill(0);
    const wrong = new Array(BARS).fill(0);
    const width = greatest - least || 1;
    for (const row of kept) {
      const place = Math.min(BARS - 1, Math.floor(((values[row] - least) / width) * BARS));
      (isLabelled(row) && !isRight(row) ? wrong : right)[place] += 1;
    }
    const most = Math.max(1, ...right.map((count, place) => count + wrong[place]));
    right.forEach((count, place) => {
      const bar = (RIGHT - LEFT) / BARS;
      const [low, high] = [(200 * wrong[place]) / most, (200 * count) / most];
      const at = { x: LEFT + place * bar, width: bar - 1 };
      svg.append(element("rect", { class: "wrong", ...at, y: bottom - low, height: low }));
      svg.append(element("rect", { class: "right", ...at, y: bottom - low - high, height: high }));
    });
    const ends = kept.length ? [[LEFT, number(least)], [RIGHT - 8, number(greatest)]] : [];
    axis(svg, bottom, ends);
    for (const [count, y] of kept.length ? [[0, bottom], [most, bottom - 200]] : []) {
      svg.append(element("text", { x: LEFT - 5, y: y + 3, "text-anchor": "end" }, compact.format(count)));
    }
    svg.append(
      element("text", { x: LEFT + 4, y: 20 }, "examples"),
      element("text", { x: across(0.5), y: 264, "text-anchor": "middle" }, $("score").value),
    );
    svg.setAttribute("aria-label", `Histogram of ${$("score").value}, ${kept.length} examples`);
    $("histogram").replaceChildren(svg);
  }

  // The workload is that of all examples; the risk is known for the labelled ones.
  function showAbstention() {
    const least = Number($("threshold").value);
    $("threshold-value").textContent = least.toFixed(2);
    const [answered, others] = [0, 1].map(() => ({ count: 0, labelled: 0, wrong: 0 }));
    for (const row of kept) {
      const group = source.confidence[row] >= least ? answered : others;
      group.count += 1;
      if (!isLabelled(row)) continue;
      group.labelled += 1;
      if (!isRight(row)) group.wrong += 1;
    }
    const isAny = answered.labelled + others.labelled > 0;
    const risk = ({ count, labelled, wrong }) => {
      if (!isAny || !count) return "";
      const share = percent(wrong / labelled);
      if (labelled === count) return `, ${share} of them wrong`;
      const known = `${labelled.toLocaleString("en")} of ${count.toLocaleString("en")} labelled`;
      return labelled ? ` (${known}, ${share} of these wrong)` : ` (${known})`;
    };
    $("abstention").textContent = kept.length
      ? `Answered: ${percent(answered.count / kept.length)} of examples${risk(answered)}. ` +
        `Left to a person: ${others.count.toLocaleString("en")} examples${risk(others)}.` +
        (isAny ? "" : " No example has a label, so the risk is unknown.")
      : "No example is left.";
  }

  function textCell(row) {
    const cell = node("td", "", "text");
    const text = (source.text && source.text[row]) || "";
    if (text.length > BEGINNING) {
      const details = document.createElement("details");
      details.append(node("summary", `${text.slice(0, BEGINNING)}…`), node("span", text.slice(BEGINNING)));
      cell.append(details);
    } else cell.append(node("span", text));
    const options = (source.options && source.options[row]) || [];
    if (options.length) {
      const list = document.createElement("ol");
      for (const [name, option, share] of options) list.append(node("li", `${name}: ${option} (${share})`));
      cell.append(list);
    }
    return cell;
  }

  function showRows() {
    const by = $("sort").value;
    const keys = by === "" ? null : by === "confidence" ? source.confidence : by === "given" ? source.given : source.scores[by];
    const order = keys ? [...kept] : kept;
    const way = $("ascending").checked ? 1 : -1;
    if (keys) order.sort((one, other) => way * (keys[one] - keys[other]) || one - other);
    const pages = Math.max(1, Math.ceil(order.length / PER_PAGE));
    page = Math.min(page, pages - 1);
    const score = source.scores[$("score").value];
    const hasTexts = Boolean(source.text || source.options);
    $("text-title").hidden = !hasTexts;
    const lines = order.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map((row) => {
      const line = document.createElement("tr");
      const name = source.id ? source.id[row] : `row ${row + 1}`;
      const heading = node("th", name);
      heading.scope = "row";
      const wrong = isLabelled(row) && !isRight(row);
      line.append(
        heading,
        node("td", source.classes[source.prediction[row]], wrong ? "mistake" : ""),
        node("td", isLabelled(row) ? source.classes[source.label[row]] : "–"),
        node("td", number(source.confidence[row]), "number"),
        node("td", isLabelled(row) ? number(source.given[row]) : "–", "number"),
        node("td", number(score[row]), "number"),
        ...(hasTexts ? [textCell(row)] : []),
      );
      return line;
    });
    document.querySelector("#rows tbody").replaceChildren(...lines);
    const name = $("score").value;
    $("score-title").textContent = name;
    $("score-name").textContent = name[0].toUpperCase() + name.slice(1);
    $("page").textContent = `page ${page + 1} of ${pages}`;
    $("previous").disabled = page === 0;
    $("next").disabled = page === pages - 1;
  }

  function update() {
    const shown = filtered();
    const isChosen = (row) => chosenBin === null || binOf(row) === chosenBin;
    kept = chosenBin === null ? shown : shown.filter(isChosen);
    page = 0;
    const labelled = shown.filter(isLabelled);
    const bins = binsOf(labelled);
    showTiles(labelled.filter(isChosen), chosenBin === null ? bins : [bins[chosenBin]]);
    drawReliability(bins, labelled.length < shown.length ? "labelled examples" : "examples");
    drawHistogram();
    showAbstention();
    showRows();
    const all = source.confidence.length;
    $("facts").textContent = `${kept.length.toLocaleString("en")} of ${all.toLocaleString("en")} examples`;
  }

  function fillValues() {
    const values = (source.columns || {})[$("column").value] || [];
    fill($("value"), ["all", ...[...new Set(values)].filter((one) => one !== null).sort()],
      ["", ...[...new Set(values)].filter((one) => one !== null).sort()]);
  }

  // What there is no choice of is not shown.
  function showChoices() {
    const columns = Object.keys(source.columns || {}).length > 0;
    const several = (id) => $(id).options.length > 1;
    for (const id of ["method", "set"]) $(id).parentElement.hidden = !several(id);
    for (const id of ["column", "value"]) $(id).parentElement.hidden = !columns;
    $("search").parentElement.hidden = !source.text;
  }

  // Examples of all sets as one source, with their set as a column; examples of other sets have no label.
  const TOGETHER = "\n"; // no name of a set holds one
  function together(sets) {
    const joined = (of, blank) =>
      sets.flatMap((one) => of(one) || new Array(one.confidence.length).fill(blank));
    const names = Object.keys(sets[0].scores).filter((name) => sets.every((one) => name in one.scores));
    const columns = Object.keys(Object.assign({}, ...sets.map((one) => one.columns)));
    const found = {
      classes: sets[0].classes,
      set: TOGETHER,
      scores: Object.fromEntries(names.map((name) => [name, joined((one) => one.scores[name])])),
      columns: {
        "in or out of distribution": joined((one) =>
          new Array(one.confidence.length).fill(one.set || "in distribution")),
        ...Object.fromEntries(columns.map((name) => [name, joined((one) => (one.columns || {})[name], null)])),
      },
    };
    for (const [name, blank] of [["prediction"], ["confidence"], ["label", -1], ["given", NaN]]) {
      found[name] = joined((one) => one[name], blank);
    }
    for (const name of ["text", "id", "options"]) {
      if (sets.some((one) => one[name])) found[name] = joined((one) => one[name], name === "id" ? "" : null);
    }
    return found;
  }

  function chooseSource() {
    const sets = sources.filter((one) => one.method === $("method").value);
    const alike = sets.length > 1 && sets.every((one) => one.classes.join("\n") === sets[0].classes.join("\n"));
    fill($("set"), [...sets.map((one) => one.set || "in distribution"), ...(alike ? ["all together"] : [])],
      [...sets.map((one) => one.set), ...(alike ? [TOGETHER] : [])]);
    const chosen = $("set").value;
    source = chosen === TOGETHER ? together(sets) : sets.find((one) => one.set === chosen) || sets[0];
    const places = source.classes.map((_, place) => String(place));
    for (const id of ["label", "prediction"]) fill($(id), ["all", ...source.classes], ["", ...places]);
    const scores = Object.keys(source.scores);
    fill($("score"), scores);
    const given = source.label ? ["label's probability"] : [];
    fill($("sort"), ["file order", "confidence", ...given, ...scores],
      ["", "confidence", ...given.map(() => "given"), ...scores]);
    fill($("column"), ["none", ...Object.keys(source.columns || {})], ["", ...Object.keys(source.columns || {})]);
    fillValues();
    showChoices();
    update();
  }

  fill($("method"), [...new Set(sources.map((one) => one.method))]);
  for (const id of ["method", "set"]) $(id).addEventListener("change", chooseSource);
  $("column").addEventListener("change", () => { fillValues(); update(); });
  for (const id of ["label", "prediction", "outcome", "value"]) $(id).addEventListener("change", update);
  for (const id of ["low", "high"]) $(id).addEventListener("input", () => { chosenBin = null; update(); });
  for (const id of ["search", "least", "most"]) $(id).addEventListener("input", update);
  $("score").addEventListener("change", () => { $("least").value = $("most").value = ""; update(); });
  $("threshold").addEventListener("input", showAbstention);
  for (const id of ["sort", "ascending"]) $(id).addEventListener("change", () => { page = 0; showRows(); });
  $("previous").addEventListener("click", () => { page -= 1; showRows(); });
  $("next").addEventListener("click", () => { page += 1; showRows(); });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => {
    const [method, set] = [$("method").value, $("set").value];
    chosenBin = null;
    setTimeout(() => {
      $("method").value = method;
      $("set").value = set;
      chooseSource();
    });
  });
  chooseSource();
  $("sort").value = Object.keys(source.scores)[0];
  showRows();
})();
