"use strict";
// Filters and sorts the dialogues. Without it all of them are shown.
const menus = [...document.querySelectorAll("select[data-filter]")];
const box = document.querySelector(".talks");
const talks = box ? [...box.children] : [];

function update() {
  const chosen = Object.fromEntries(
    menus.map((menu) => [menu.dataset.filter, menu.value]),
  );
  let shown = 0;
  for (const talk of talks) {
    talk.hidden = ["stage", "kind"].some(
      (name) => chosen[name] && talk.dataset[name] !== chosen[name],
    );
    shown += !talk.hidden;
  }
  const size = (talk) => Number(talk.dataset.size);
  const order = chosen.order === "longest"
    ? [...talks].sort((a, b) => size(b) - size(a)) : talks;
  box.append(...order);
  document.querySelector(".count").textContent =
    `${shown} of ${talks.length} dialogues`;
}

if (box) {
  menus.forEach((menu) => menu.addEventListener("change", update));
  update();
}
