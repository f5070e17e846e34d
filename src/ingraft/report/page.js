// Nothing on the page depends on this: it shows the label of the mark under the pointer.
"use strict";
const tip = document.getElementById("tip");
document.addEventListener("pointermove", (event) => {
  const mark = event.target.closest?.("svg [role=graphics-symbol]:not([aria-roledescription=axis], [aria-roledescription=legend], [aria-roledescription=title])");
  tip.hidden = !mark;
  if (!mark) return;
  tip.textContent = mark.getAttribute("aria-label");
  const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
  tip.style.left = Math.max(8, left) + "px";
  tip.style.top = event.clientY + 16 + "px";
});
