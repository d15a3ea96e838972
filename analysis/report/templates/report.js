"use strict";
const root = document.documentElement;
const theme = document.getElementById("theme");
const isDark = () => getComputedStyle(root).colorScheme === "dark" ||
  (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
const name = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
const remembered = { get: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
  set: (value) => { try { localStorage.setItem("theme", value); } catch { /* a page without storage forgets */ } } };
if (remembered.get()) root.dataset.theme = remembered.get();
theme.hidden = false;
theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  remembered.set(root.dataset.theme);
  name();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
name();

for (const button of document.querySelectorAll(".sort")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th"), row = heading.parentElement, body = row.closest("table").tBodies[0];
    const column = [...row.children].indexOf(heading);
    const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of row.children) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const number = (key) => key === "inf" ? Infinity : key === "-inf" ? -Infinity : Number(key);
    const compare = (a, b) => {
      const [left, right] = [a, b].map((tr) => tr.cells[column].dataset.key);
      const [x, y] = [number(left), number(right)];
      return Number.isNaN(x) || Number.isNaN(y) || left === "" || right === "" ? left.localeCompare(right) : x === y ? 0 : x - y;
    };
    body.append(...[...body.rows].sort((a, b) => sign * compare(a, b)));
  });
}

for (const button of document.querySelectorAll(".enlarge")) {
  button.addEventListener("click", () => {
    const large = button.closest("figure").querySelector(".plot").classList.toggle("large");
    button.setAttribute("aria-pressed", String(large));
    button.textContent = large ? "Fit" : "Enlarge";
  });
}
