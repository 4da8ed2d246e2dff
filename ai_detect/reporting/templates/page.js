(function () {
  "use strict";
  var root = document.documentElement;
  document.querySelectorAll("[data-js]").forEach(function (part) { part.hidden = false; });

  var theme = document.getElementById("theme");
  theme.addEventListener("click", function () {
    var dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  document.querySelectorAll("table[data-sortable] th").forEach(function (head) {
    var button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.textContent = "";
    head.appendChild(button);
    button.addEventListener("click", function () {
      var row = head.parentNode, body = head.closest("table").tBodies[0];
      var column = Array.prototype.indexOf.call(row.cells, head);
      var rising = head.getAttribute("aria-sort") === "descending" || (!head.hasAttribute("aria-sort") && !head.classList.contains("n"));
      Array.prototype.forEach.call(row.cells, function (cell) { cell.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      var value = function (line) {
        var cell = line.cells[column];
        return cell.dataset.value === undefined ? cell.textContent.trim().toLowerCase() : Number(cell.dataset.value);
      };
      Array.prototype.slice.call(body.rows).sort(function (a, b) {
        var left = value(a), right = value(b);
        return (left < right ? -1 : left > right ? 1 : 0) * (rising ? 1 : -1);
      }).forEach(function (line) { body.appendChild(line); });
    });
  });

  var filter = document.getElementById("filter");
  if (filter) {
    var cards = Array.prototype.slice.call(document.querySelectorAll("article"));
    var count = document.getElementById("filtered");
    filter.addEventListener("input", function () {
      var wanted = filter.value.trim().toLowerCase(), shown = 0;
      cards.forEach(function (card) {
        card.hidden = wanted !== "" && card.textContent.toLowerCase().indexOf(wanted) < 0;
        shown += card.hidden ? 0 : 1;
      });
      count.textContent = wanted === "" ? "" : shown + " of " + cards.length + " shown";
    });
  }

  document.querySelectorAll("button[data-copy]").forEach(function (button) {
    button.addEventListener("click", function () {
      navigator.clipboard.writeText(button.dataset.copy).then(function () { button.textContent = "copied"; });
    });
  });

  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("article details").forEach(function (part) { part.open = true; });
  });
})();
