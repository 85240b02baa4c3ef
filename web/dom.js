// Makes the elements of the panel.  Text from outside is only ever set as textContent.

const SVG = "http://www.w3.org/2000/svg";

export function make(tag, className, ...children) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  return element;
}

/** [svg, path, ...]: one path per name, which is its class. */
export function makeSvg(className, viewBox, ...pathNames) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", className);
  svg.setAttribute("viewBox", viewBox);
  const paths = pathNames.map((name) => document.createElementNS(SVG, "path"));
  paths.forEach((path, index) => path.setAttribute("class", pathNames[index]));
  svg.append(...paths);
  return [svg, ...paths];
}

const STYLES = "sidestep-styles";
const SHARED = "./sidestep.css";

/**
 * Add a stylesheet that lies beside a module: `addStyles("./runs.css", import.meta.url)`.  The shared one comes first,
 * whichever module the page loads first, as those of an area change what it says.
 */
export function addStyles(name, module) {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.className = STYLES;
  link.href = new URL(name, module).href;
  document.head.insertBefore(link, name === SHARED ? document.head.querySelector(`.${STYLES}`) : null);
}

/** A button that submits nothing. */
export function button(text, className, title = "") {
  const element = make("button", className, text);
  element.type = "button";
  element.title = title;
  return element;
}
