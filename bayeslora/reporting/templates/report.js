"use strict";
// Makes tables sortable by buttons in their headings. Without it they read as they are.
(() => {
  const order = new Intl.Collator("en", { numeric: true });
  const status = document.createElement("p");
  const opposite = { ascending: "descending", descending: "ascending" };

  // Every row with all of its headings, so that a row can stand anywhere.
  function rowsOf(body) {
    const rows = [...body.cloneNode(true).rows];
    let group = null;
    let left = 0;
    for (const row of rows) {
      if (left > 0) {
        row.prepend(group.cloneNode(true));
        left -= 1;
      } else if (row.cells[0].rowSpan > 1) {
        left = row.cells[0].rowSpan - 1;
        row.cells[0].removeAttribute("rowspan");
        row.cells[0].scope = "row";
        group = row.cells[0];
      }
    }
    return rows;
  }

  // The number of a cell, without its interval; NaN for an empty cell. Of a heading, the text.
  function valueOf(row, column) {
    const cell = row.cells[column];
    if (!cell.classList.contains("number")) return cell.textContent.trim();
    const text = cell.firstChild === null ? "" : cell.firstChild.textContent;
    return Number.parseFloat(text.replace("−", "-").replaceAll(",", "").replace("∞", "Infinity"));
  }

  function compare(one, other, way) {
    if (typeof one === "string") return way * order.compare(one, other);
    if (Number.isNaN(one) || Number.isNaN(other)) return Number.isNaN(one) - Number.isNaN(other);
    return one === other ? 0 : way * (one < other ? -1 : 1);
  }

  function makeSortable(table) {
    const original = table.tBodies[0];
    if (original.rows.length < 2) return;
    const pristine = original.cloneNode(true);
    const headings = [...table.tHead.rows[0].cells];

    function sort(column) {
      const heading = headings[column];
      const now = heading.getAttribute("aria-sort");
      const first = heading.dataset.first;
      const next = now === null ? first : now === first ? opposite[first] : null;
      for (const one of headings) one.removeAttribute("aria-sort");
      let rows = [...pristine.cloneNode(true).rows];
      if (next !== null) {
        heading.setAttribute("aria-sort", next);
        const way = next === "ascending" ? 1 : -1;
        const keyed = rowsOf(pristine).map((row) => [valueOf(row, column), row]);
        rows = keyed.sort((one, other) => compare(one[0], other[0], way)).map((pair) => pair[1]);
      }
      table.tBodies[0].replaceChildren(...rows);
      const name = heading.dataset.name;
      status.textContent = next === null ? "Rows in their first order." : `Sorted by ${name}, ${next}.`;
    }

    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => sort(column));
    });
  }

  status.className = "hidden";
  status.setAttribute("role", "status");
  document.querySelector("main").append(status);
  document.querySelectorAll("table[data-sortable]").forEach(makeSortable);
})();
