// A title of the page for a while, in place of ComfyUI's own.

/**
 * {show(text), restore()}.  ComfyUI sets its title at every step of a node; what it sets is kept, and put back at the end.
 */
export function createTitle() {
  let own = "";
  let theirs = "";
  const observer = new MutationObserver(put);

  function put() {
    if (document.title === own) return;
    theirs = document.title;
    document.title = own;
  }

  function show(text) {
    if (!own) theirs = document.title;
    const begins = !own;
    own = text;
    document.title = own;
    if (begins) observer.observe(document.head, { subtree: true, childList: true, characterData: true });
  }

  function restore() {
    if (!own) return;
    observer.disconnect();
    own = "";
    document.title = theirs;
  }

  return { show, restore };
}
