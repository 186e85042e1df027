// Filters for the matrix: by name, by package, and by what works. Without this script the table is whole.
"use strict";
{
  const box = document.querySelector(".matrix");
  if (box) addFilters(box);

  function addFilters(box) {
    const rows = [...box.querySelectorAll("tbody tr")];
    const cells = (row) => [...row.cells].map((cell) => cell.textContent.trim());
    const packages = [...new Set(rows.map((row) => cells(row)[1]))].sort((a, b) => a.localeCompare(b));

    const form = document.createElement("form");
    form.className = "matrix-filters";
    form.innerHTML = `
      <label>Name <input type="search" name="name" placeholder="lion"></label>
      <label>Package <select name="package"><option value="">all</option></select></label>
      <label><input type="checkbox" name="whole"> no ✗</label>
      <button type="reset">Show all</button>
      <output></output>
      <p>A click on the head of a column keeps the names with ✓ in it; clicks on several keep those with all of them.</p>`;
    for (const each of packages) form.elements.package.add(new Option(each, each));
    box.before(form);

    const buttons = [...box.querySelectorAll("thead th")].slice(2).map((head) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", "false");
      button.append(...head.childNodes);
      head.append(button);
      return button;
    });
    const isPressed = (button) => button.getAttribute("aria-pressed") === "true";
    const press = (button, pressed) => button.setAttribute("aria-pressed", String(pressed));

    function show() {
      const name = form.elements.name.value.trim().toLowerCase();
      let shown = 0;
      for (const row of rows) {
        const [own, of, ...signs] = cells(row);
        row.hidden = !(
          own.toLowerCase().includes(name) &&
          [of, ""].includes(form.elements.package.value) &&
          !(form.elements.whole.checked && signs.includes("✗")) &&
          buttons.every((button, index) => !isPressed(button) || signs[index] === "✓")
        );
        shown += !row.hidden;
      }
      form.querySelector("output").textContent = `${shown} of ${rows.length} names`;
    }

    for (const button of buttons)
      button.addEventListener("click", () => {
        press(button, !isPressed(button));
        show();
      });
    form.addEventListener("input", show);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => {
      buttons.forEach((button) => press(button, false));
      setTimeout(show); // once the fields are empty
    });
    show(); // a browser keeps what was written before a reload
  }
}
