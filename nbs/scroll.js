// Code and tables that scroll within themselves can be reached, and scrolled, by keyboard
const boxes = document.querySelectorAll('main pre, main .sd-table, main .cell-output-display, main .math.display');
const reach = () => boxes.forEach((box) => {
  if (box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1) box.tabIndex = 0;
  else if (!box.id) box.removeAttribute('tabindex');
});
new ResizeObserver(reach).observe(document.body);
