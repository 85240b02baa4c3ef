// Things that one page of a browser does for all of its pages, once.

const KEY = "sidestep.claimed";
const KEPT = 50;
const SAME = 10_000; // milliseconds between two pages that see the same thing

/** True for the first page of this browser that claims what it saw at `time`, in milliseconds. */
export function claim(name, time) {
  // Browsers have locks on secure pages only; without one, two pages that ask within a moment both do it.
  return navigator.locks ? navigator.locks.request(KEY, () => take(name, time)) : take(name, time);
}

function take(name, time) {
  const claimed = JSON.parse(localStorage.getItem(KEY) ?? "[]");
  if (claimed.some(([each, at]) => each === name && Math.abs(at - time) < SAME)) return false;
  localStorage.setItem(KEY, JSON.stringify([...claimed, [name, time]].slice(-KEPT)));
  return true;
}
