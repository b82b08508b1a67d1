// SPDX-License-Identifier: Apache-2.0
// A log is shown from its end and stays there while it grows, unless somebody scrolls up in it. gradio's own box scrolls
// only now and then, and the browser has no event for a text that a program put into a box.
const logs = new WeakMap(); // box -> whose log it holds, and where it was left
setInterval(() => {
  for (const box of document.querySelectorAll(".log textarea")) {
    const whose = box.closest(".log").className;
    const left = logs.get(box);
    const atEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 4;
    if (!box.offsetParent) logs.delete(box); // not to be seen: from its end when it is opened again
    else if (!left || left.whose !== whose || box.scrollTop >= left.top || atEnd) {
      box.scrollTop = box.scrollHeight;
      logs.set(box, { whose, top: box.scrollTop });
    }
  }
}, 300);
